"""Where a peer is ahead of guardpass: what a report says first.

By every measure peers are held against one contender, the first of guardpass: held against the best by each measure,
its int8 for speed and its fp32 for fidelity, guardpass would look better than any one of its guards is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from .result import Contender, Cost, Latency, Report
from .subjects import OURS, contenders
from .summary import Interval, paired_ratio, share_interval

Standing = Literal["ahead", "level", "behind"]


@dataclass(frozen=True)
class Stand:
    """A peer beside guardpass by one measure."""

    measure: str
    unit: str
    peer: Contender
    value: float
    ours: float
    ratio: float  # of times within turns, where there are turns; else of the values
    interval: Interval | None  # 95 %, of the ratio
    n: int  # turns, requests or texts
    standing: Standing


def reference(report: Report) -> Contender | None:
    """Guardpass's first contender."""
    return next((each for each in contenders(report) if each.engine == OURS), None)


def standings(report: Report) -> tuple[Stand, ...]:
    """Every peer by every measure, latency first; empty where guardpass or the peers are missing.

    report: of one subject.
    """
    ours = reference(report)
    return () if ours is None else (*_latency(report, ours), *_rate(report, ours), *_single(report, ours))


def paired(row: Latency, beside: Latency) -> tuple[float, Interval | None]:
    """Ratio of times within turns; of medians, without an interval, where the turns are not the same."""
    if len(row.samples) == len(beside.samples) > 0:
        return paired_ratio(row.samples, beside.samples)
    return row.ms.median / beside.ms.median, None


def _latency(report: Report, ours: Contender) -> Iterator[Stand]:
    mine = {(row.mode, row.content): row for row in report.latency if row.contender == ours}
    for row in report.latency:
        beside = mine.get((row.mode, row.content))
        if beside and row.contender.engine != OURS:
            ratio, interval = paired(row, beside)
            low, high = interval or (ratio, ratio)
            standing: Standing = "ahead" if high < 1 else "behind" if low > 1 else "level"
            name, medians = f"latency, {row.mode}, {row.content} tokens", (row.ms.median, beside.ms.median)
            yield Stand(name, "ms", row.contender, *medians, ratio, interval, row.ms.n, standing)


def _rate(report: Report, ours: Contender) -> Iterator[Stand]:
    # One value each: of the highest rate that held, and of one batch.
    server = [(f"server, p95 within {row.bound_ms} ms, {row.content} tokens", row.contender, row.rate, row.ms.n)
              for row in report.rate if row.chosen]  # fmt: skip
    offline = [(f"offline, {row.content} tokens", row.contender, row.rate, row.requests) for row in report.offline]
    rows = server + offline
    mine = {measure: rate for measure, who, rate, _ in rows if who == ours}
    for measure, who, rate, n in rows:
        if measure in mine and who.engine != OURS:
            yield _stand(measure, "requests/s", who, rate, mine[measure], n, higher=True)


_COSTS: Sequence[tuple[str, str, Callable[[Cost], float | None]]] = (
    ("load time", "s", lambda row: row.load_s),
    ("time to the first verdict", "s", lambda row: row.first_verdict_s),
    ("resident memory", "MB", lambda row: row.resident_mb),
    ("peak memory", "MB", lambda row: row.peak_mb),
    ("file size", "MB", lambda row: row.file_mb),
    ("conversion time", "s", lambda row: row.convert_s),
)


def _single(report: Report, ours: Contender) -> Iterator[Stand]:
    """What was measured once."""
    judged = next((row for row in report.fidelity if row.contender == ours), None)
    for row in report.fidelity if judged else ():
        if judged and row.contender.engine != OURS:
            shares = row.agreement, judged.agreement
            (low, high), (least, most) = (share_interval(each.agreement, each.texts) for each in (row, judged))
            same = low <= most and least <= high
            stand = _stand("agreement with fp32", "", row.contender, *shares, row.texts, higher=True)
            yield stand if not same else Stand(**vars(stand) | {"standing": "level"})
    cost = next((row for row in report.cost if row.contender == ours), None)
    for name, unit, value in _COSTS if cost else ():
        for other in report.cost:
            found, mine = value(other), value(cost) if cost else None
            if found is not None and mine is not None and other.contender.engine != OURS:
                yield _stand(name, unit, other.contender, found, mine, 1)


def _stand(
    measure: str, unit: str, peer: Contender, value: float, ours: float, n: int, *, higher: bool = False
) -> Stand:
    """By the values alone. higher: is better."""
    standing: Standing = "level" if value == ours else "ahead" if (value > ours) == higher else "behind"
    return Stand(measure, unit, peer, value, ours, value / ours if ours else 1.0, None, n, standing)
