"""Where a peer is ahead of guardpass: what a report says first.

By every measure peers are held against one contender, the first of guardpass: held against the best by each measure,
its int8 for speed and its fp32 for fidelity, guardpass would look better than any one of its guards is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from .measures import Value, ratio, values
from .schema import Contender, Report
from .statistics import Interval, ratio_interval
from .subjects import OURS, contenders

Standing = Literal["ahead", "level", "behind"]


@dataclass(frozen=True)
class Stand:
    """A peer beside guardpass by one measure."""

    peer: Value
    ours: Value
    ratio: float  # of times within turns, where there are turns; else of the values
    interval: Interval | None  # 95 %, of the ratio
    standing: Standing


def reference(report: Report) -> Contender | None:
    """Guardpass's first contender."""
    return next((each for each in contenders(report) if each.engine == OURS), None)


def standings(report: Report) -> Iterator[Stand]:
    """Every peer by every measure that guardpass was measured by too. report: of one subject."""
    first = reference(report)
    ours = {each.measure: each for each in values(report) if each.contender == first}
    for peer in values(report):
        if peer.measure in ours and peer.contender.engine != OURS:
            yield _stand(peer, ours[peer.measure])


def _stand(peer: Value, ours: Value) -> Stand:
    if peer.beside is not None:
        found, interval = peer.beside, peer.beside_interval
    else:
        found, interval = ratio(peer, ours), ratio_interval(peer.value, peer.interval, ours.value, ours.interval)
    low, high = interval or (found, found)
    standing: Standing = "level"
    if not low <= 1 <= high:
        standing = "ahead" if (low > 1) == peer.higher else "behind"
    return Stand(peer, ours, found, interval, standing)
