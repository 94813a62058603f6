"""The tables of a report on one subject, in markdown. What is best of a column is bold, whoever it is."""

from collections.abc import Callable, Sequence

import numpy as np

from .format import bold, code, number, percent, percents, ranged, ratio, table
from .schema import Contender, Latency, Report
from .statistics import share_interval
from .subjects import name_of


def latency(report: Report) -> str:
    """Of each mode: medians, ratios and shares of the int8 peak by content length, then what stands behind them."""
    modes = dict.fromkeys(row.mode for row in report.latency)
    return "\n\n".join(_latency(report, [row for row in report.latency if row.mode == mode], mode) for mode in modes)


def _latency(report: Report, rows: list[Latency], mode: str) -> str:
    lengths = sorted({row.content for row in rows})
    cells = {(row.contender, row.content): row for row in rows}
    least = {length: min(row.ms.median for row in rows if row.content == length) for length in lengths}
    order = sorted(
        dict.fromkeys(row.contender for row in rows),
        key=lambda contender: np.mean(
            [np.log(row.ms.median / least[row.content]) for row in rows if row.contender == contender]
        ).item(),
    )

    def wide(cell: Callable[[Latency], str]) -> str:
        body = [
            [
                name_of(contender),
                *(cell(cells[contender, length]) if (contender, length) in cells else "-" for length in lengths),
            ]
            for contender in order
        ]
        return table(["", *(f"{length} tokens" for length in lengths)], body)

    def median(row: Latency) -> str:
        shown = ranged(row.ms.median, row.ms.median_interval)
        return bold(shown) if row.ms.median == least[row.content] else shown

    counts = sorted({row.ms.n for row in rows})
    n = f"N = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "")
    first = name_of(rows[0].contender)
    parts = [
        f"### Latency, mode {mode}",
        f"Median ms of a verdict by content length (95 % interval), {n}; the fastest first and bold.",
        wide(median),
        f"Time beside {first} in the same turns, median ratio (95 % interval); below 1 is faster.",
        wide(lambda row: ratio(row.ratio, row.ratio_interval)),
    ]
    peak = next((contender.int8 for contender in report.peaks if contender.int8), None)
    whose = "of the pass where the engine tells its time, else of the whole request"
    if any(row.share for row in rows):
        taken = [peak for row in rows for peak in row.peaks or ()]
        parts += [
            f"Share of the int8 peak taken right before each request ({number(min(taken))} to {number(max(taken))} "
            f"GOP/s), {whose}; median over turns (95 % interval).",
            wide(lambda row: percents(row.share, row.share_interval)),
        ]
    elif peak and any(row.operations for row in rows):
        parts += [
            f"Share of the int8 peak that the run began with ({number(peak)} GOP/s), {whose}.",
            wide(lambda row: percent(None if (rate := speed(row)) is None else rate / peak)),
        ]
    return "\n\n".join([*parts, "What stands behind the medians, ms:", _details(rows, order)])


def speed(row: Latency) -> float | None:
    """GOP/s of the pass; of the whole request where the engine does not tell the pass apart."""
    ms = row.split.get("pass", row.ms.median)
    return None if row.operations is None or ms <= 0 else row.operations / ms / 1e6


def _details(rows: Sequence[Latency], order: Sequence[Contender]) -> str:
    head = ["", "content", "prompt", "run", "N", "least", "mean", "stddev", "p95", "p99", "tokenize", "pass", "rest"]
    body = [
        [
            name_of(row.contender),
            str(row.content),
            str(row.prompt),
            str(row.run),
            str(row.ms.n),
            *map(number, (row.ms.least, row.ms.mean, row.ms.stddev)),
            ranged(row.ms.p95, row.ms.p95_interval),
            number(row.ms.p99),
            *(number(row.split.get(part)) for part in ("tokenize", "pass", "rest")),
        ]
        for row in sorted(rows, key=lambda row: (row.content, order.index(row.contender)))
    ]
    return table(head, body)


def rates(report: Report) -> str:
    """Scenario server: every rate that was tried; the highest that held the bound is bold."""
    head = ["", "content", "offered/s", "served/s", "N", "median ms", "p95 ms", "bound ms", "held"]
    body = [
        [
            name_of(row.contender),
            str(row.content),
            bold(number(row.rate)) if row.chosen else number(row.rate),
            number(row.served),
            str(row.ms.n),
            ranged(row.ms.median, row.ms.median_interval),
            ranged(row.ms.p95, row.ms.p95_interval),
            number(row.bound_ms),
            {True: "yes", False: "no", None: "-"}[row.held],
        ]
        for row in report.rate
    ]
    seeds = ", ".join(sorted({str(row.seed) for row in report.rate}))
    return (
        f"### Server\n\nPoisson arrivals (seed {seeds}), latency counted from the intended send time; the highest rate "
        f"that held the bound on p95 is bold. Requests queue behind one another, so the intervals are too narrow."
        f"\n\n{table(head, body)}"
    )


def offline(report: Report) -> str:
    rows = sorted(report.offline, key=lambda row: (row.content, -row.rate))
    body = [
        [name_of(row.contender), str(row.content), str(row.requests), number(row.seconds), number(row.rate)]
        for row in rows
    ]
    return f"### Offline\n\nAll requests at once.\n\n{table(['', 'content', 'N', 'seconds', 'requests/s'], body)}"


def fidelity(report: Report) -> str:
    rows = sorted(report.fidelity, key=lambda row: -row.agreement)
    body = [
        [
            name_of(row.contender),
            percents(row.agreement, share_interval(row.agreement, row.texts)),
            str(row.texts),
            number(row.widest_flip),
        ]
        for row in rows
    ]
    return (
        "### Fidelity\n\nVerdicts beside the checkpoint's own weights in fp32 (95 % interval, Wilson); the widest flip "
        f"is fp32's margin in logits.\n\n{table(['', 'same verdict', 'texts', 'widest flip'], body)}"
    )


def costs(report: Report) -> str:
    head = ["", "load s", "first verdict s", "resident MB", "peak MB", "file MB", "conversion s"]
    values = [
        (row.load_s, row.first_verdict_s, row.resident_mb, row.peak_mb, row.file_mb, row.convert_s)
        for row in report.cost
    ]
    best = [min((value for value in column if value is not None), default=None) for column in zip(*values, strict=True)]
    body = [
        [name_of(row.contender), *(_marked(value, least) for value, least in zip(line, best, strict=True))]
        for row, line in zip(report.cost, values, strict=True)
    ]
    return f"### Costs\n\nOne measurement each; the least is bold.\n\n{table(head, body)}"


def _marked(value: float | None, best: float | None) -> str:
    return bold(number(value)) if value is not None and value == best else number(value)


def peaks(report: Report) -> str:
    body = [
        [
            str(row.threads),
            *map(number, (row.int8, row.bf16, row.fp32, row.read_gb_s)),
            "; ".join(f"{what}: {by}" for what, by in row.by.items()),
        ]
        for row in report.peaks
    ]
    head = ["threads", "int8 GOP/s", "bf16 GOP/s", "fp32 GOP/s", "read GB/s", "measured with"]
    return f"## The machine's peaks\n\nBy microbenchmark, as the run began.\n\n{table(head, body)}"


def skipped(report: Report) -> str:
    body = [
        [f"{row.engine} {row.setting}".strip(), row.subject, row.reason, code(row.command)] for row in report.skipped
    ]
    return f"## Skipped\n\n{table(['', 'subject', 'why', 'command that failed'], body, left=4)}"
