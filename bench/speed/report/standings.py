"""Standings of peers beside guardpass; a report begins with the measures by which a peer is ahead.

By every measure, peers are compared with one contender, the first of guardpass. Compared with the best contender of
each measure, int8 for speed and fp32 for fidelity, guardpass would look better than any one of its guards is.
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
    """The first contender of guardpass, with which peers are compared."""
    return next((contender for contender in contenders(report) if contender.engine == OURS), None)


def standings(report: Report) -> Iterator[Stand]:
    """Every peer by every measure that guardpass was measured by too. report: of one subject."""
    first = reference(report)
    ours = {value.measure: value for value in values(report) if value.contender == first}
    for peer in values(report):
        if peer.measure in ours and peer.contender.engine != OURS:
            yield _stand(peer, ours[peer.measure])


def _stand(peer: Value, ours: Value) -> Stand:
    if peer.beside is not None:
        quotient, interval = peer.beside, peer.beside_interval
    else:
        quotient, interval = ratio(peer, ours), ratio_interval(peer.value, peer.interval, ours.value, ours.interval)
    low, high = interval or (quotient, quotient)
    standing: Standing = "level"
    if not low <= 1 <= high:
        standing = "ahead" if (low > 1) == peer.higher else "behind"
    return Stand(peer, ours, quotient, interval, standing)
