"""The values of a report, by contender and measure, that can be compared."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .schema import Contender, Cost, Report
from .statistics import Interval, share_interval


@dataclass(frozen=True)
class Value:
    """One contender by one measure."""

    measure: str
    unit: str  # "" for a share
    contender: Contender
    value: float
    n: int  # requests or texts behind it
    higher: bool = False  # is better
    interval: Interval | None = None  # 95 %; None for what was measured once
    beside: float | None = None  # ratio to the first contender, of times in the same turns
    beside_interval: Interval | None = None


_COSTS: Sequence[tuple[str, str, Callable[[Cost], float | None]]] = (
    ("load time", "s", lambda row: row.load_s),
    ("time to the first verdict", "s", lambda row: row.first_verdict_s),
    ("resident memory", "MB", lambda row: row.resident_mb),
    ("peak memory", "MB", lambda row: row.peak_mb),
    ("file size", "MB", lambda row: row.file_mb),
    ("conversion time", "s", lambda row: row.convert_s),
)


def values(report: Report) -> Iterator[Value]:
    """All values of a report, latency first."""
    for latency in report.latency:
        name = f"latency, {latency.mode}, {latency.content} tokens"
        ms = latency.ms
        yield Value(
            name,
            "ms",
            latency.contender,
            ms.median,
            ms.n,
            False,
            ms.median_interval,
            latency.ratio,
            latency.ratio_interval,
        )
    for rate in report.rate:
        if rate.chosen:
            bound = "no bound" if rate.bound_ms is None else f"p95 within {rate.bound_ms:g} ms"
            name = f"server, {bound}, {rate.content} tokens"
            yield Value(name, "requests/s", rate.contender, rate.rate, rate.ms.n, higher=True)
    for offline in report.offline:
        name = f"offline, {offline.content} tokens"
        yield Value(name, "requests/s", offline.contender, offline.rate, offline.requests, higher=True)
    for row in report.fidelity:
        interval = share_interval(row.agreement, row.texts)
        yield Value("agreement with fp32", "", row.contender, row.agreement, row.texts, True, interval)
    for name, unit, of in _COSTS:
        for cost in report.cost:
            value = of(cost)
            if value is not None:
                yield Value(name, unit, cost.contender, value, 1)


def ratio(value: Value, beside: Value) -> float:
    """The ratio of two values; 1 for zero over zero."""
    return value.value / beside.value if beside.value else 1.0
