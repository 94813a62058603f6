"""The reports of `calibrate` and `compare` as tables."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from guardpass.jsonl import dump

from .calibrate import Calibration, ModeReport
from .comparison import Comparison, Flip, Pair, letter
from .metrics import Estimate, Metrics

_SHOWN = 20  # flips of a pair


def show_calibration(report: Calibration) -> None:
    """Print it."""
    console = Console(width=120, soft_wrap=True)
    for mode in report.modes:
        console.print(_metrics(mode, report.resamples))
        for field in mode.fields:
            console.print(
                f"mode {mode.mode}, {field}: unsafe from {mode.threshold.score:.6g}, chosen for {report.at} on "
                f"{mode.overall.texts} texts",
                markup=False, highlight=False,
            )  # fmt: skip
    console.print(
        "Measured on the texts the thresholds were chosen on, so expect somewhat less of others.", highlight=False
    )
    done = "has the thresholds now" if report.written else "is as it was (--dry-run)"
    console.print(f"{report.guard}/guard.json {done}", markup=False, highlight=False)
    for path in report.plots:
        console.print(path, markup=False, highlight=False)


def _metrics(mode: ModeReport, resamples: int) -> Table:
    inside = f", 95 % intervals of {resamples} resamples" if resamples else ""
    table = Table(title=f"mode {mode.mode}{inside}", title_justify="left")
    for name in ("texts of", "unsafe/all", "by", "F1", "precision", "recall", "false positives", "AU-PRC"):
        table.add_column(name, no_wrap=name != "texts of")
    _add(table, "all", mode.overall, mode.threshold.score)
    for category, metrics in mode.categories.items():
        _add(table, f"category {shown(category)}", metrics, mode.threshold.score)
    return table


def _add(table: Table, name: str, metrics: Metrics, threshold: float) -> None:
    count = f"{metrics.unsafe}/{metrics.texts}"
    for first, by, found in ((True, "argmax", metrics.argmax), (False, f"{threshold:.4f}", metrics.threshold)):
        cells = [_cell(each) for each in (found.f1, found.precision, found.recall, found.fpr)]
        left = (Text(name), count) if first else ("", "")
        table.add_row(*left, by, *cells, _cell(metrics.au_prc) if first else "", end_section=not first)


def _cell(estimate: Estimate) -> str:
    if estimate.value is None:
        return "-"
    interval = "" if estimate.low is None else f"\n{estimate.low:.3f}-{estimate.high:.3f}"
    return f"{estimate.value:.3f}{interval}"


def show_comparison(report: Comparison) -> None:
    """Print it. Of a pair's flips the first twenty are shown."""
    console = Console(width=120, soft_wrap=True)
    names = [letter(place) for place in range(len(report.guards))]
    for name, judge in zip(names, report.guards, strict=True):
        bounds = [
            f"{field} from {score:.6g} in mode {mode}"
            for mode, fields in judge.thresholds.items()
            for field, score in fields.items()
        ]
        by = f"unsafe by {', '.join(bounds)}" if bounds else "by argmax"
        console.print(f"{name}: {shown(judge.guard)}, {by}", markup=False, highlight=False)
    table = Table(title=f"same verdicts, of {report.texts} texts", title_justify="left")
    for name in ("", *names):
        table.add_column(name, justify="right")
    for name, row in zip(names, report.agreement, strict=True):
        table.add_row(name, *(f"{share:.2%}" for share in row))
    console.print(table)
    for pair in report.pairs:
        _show_pair(console, pair)
    for path in report.plots:
        console.print(path, markup=False, highlight=False)


def _show_pair(console: Console, pair: Pair) -> None:
    first, second = letter(pair.first), letter(pair.second)
    console.print(
        f"{first} and {second}: {len(pair.flips)} flips, score change {pair.mean_score_change:.4f} in the mean, "
        f"{pair.worst_score_change:.4f} at worst",
        highlight=False,
    )
    if not pair.flips:
        return
    table = Table()
    for name in (
        "line",
        "id",
        *(f"{each} {what}" for each in (first, second) for what in ("label", "score", "margin")),
    ):
        table.add_column(name, justify="left" if name == "id" or "label" in name else "right")
    for flip in pair.flips[:_SHOWN]:
        table.add_row(*_flip(flip))
    console.print(table)
    if len(pair.flips) > _SHOWN:
        console.print(f"and {len(pair.flips) - _SHOWN} more, which --json has", highlight=False)


def _flip(flip: Flip) -> list[Text]:
    cells = [str(flip.line), "" if flip.id is None else shown(flip.id)]
    for side in (flip.first, flip.second):
        cells += [shown(side.label), f"{side.score:.4f}", f"{side.margin:+.3f}"]
    return [Text(cell) for cell in cells]


def shown(value: Any) -> str:
    """A name of the user's own, without anything a terminal would obey."""
    return value if isinstance(value, str) and value.isprintable() else dump(value)
