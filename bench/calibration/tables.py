"""The reports of `calibrate` and `compare` as tables, none wider than 80 columns."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from guardpass.jsonl import dump

from .calibrate import Calibration, ModeReport
from .comparison import Comparison, Flip, Pair, letter
from .metrics import Estimate, Flagging, Metrics

_WIDTH = 80
_SHOWN = 20  # flips of a pair
_MATRIX = 8  # guards whose table of agreement fits; of more, each pair has its own line


def show_calibration(report: Calibration) -> None:
    """Print a calibration: a table and the threshold of each mode, then what was written."""
    console = _console()
    for mode in report.modes:
        console.print(_metrics(mode, report.resamples))
        for field in mode.fields:
            _print(
                console,
                f"mode {mode.mode}, {field}: unsafe from {mode.threshold.score:.6g}, chosen for {report.at} on "
                f"{mode.overall.texts} texts",
            )
        _print(console, "")
    _print(console, "These texts chose the thresholds: expect somewhat less on others.")
    done = "has the thresholds now" if report.written else "is as it was (--dry-run)"
    _print(console, f"{report.guard}/guard.json {done}")
    for path in report.plots:
        _print(console, path)


def _metrics(mode: ModeReport, resamples: int) -> Table:
    intervals = f", 95 % intervals of {resamples} resamples" if resamples else ""
    table = _table(f"mode {mode.mode}{intervals}")
    table.add_column("texts\nunsafe/all, AU-PRC", overflow="fold")
    table.add_column("by", no_wrap=True)
    for name in ("F1", "precision", "recall", "false\npositives"):
        table.add_column(name, no_wrap=True)
    _add(table, "all", mode.overall, mode.threshold.score)
    for category, metrics in mode.categories.items():
        _add(table, f"category {shown(category)}", metrics, mode.threshold.score)
    return table


def _add(table: Table, name: str, metrics: Metrics, threshold: float) -> None:
    """Two rows of a set of texts: by argmax and by the threshold."""
    table.add_row(Text(f"{name}\n{metrics.unsafe}/{metrics.texts}"), "argmax", *_cells(metrics.argmax))
    area = "" if metrics.au_prc.value is None else f"AU-PRC {_cell(metrics.au_prc)}"
    table.add_row(area, f"{threshold:.4f}", *_cells(metrics.threshold), end_section=True)


def _cells(flagging: Flagging) -> list[str]:
    return [_cell(metric) for metric in (flagging.f1, flagging.precision, flagging.recall, flagging.fpr)]


def _cell(estimate: Estimate) -> str:
    if estimate.value is None:
        return "-"
    interval = "" if estimate.low is None else f"\n{estimate.low:.3f}-{estimate.high:.3f}"
    return f"{estimate.value:.3f}{interval}"


def show_comparison(report: Comparison) -> None:
    """Print a comparison: the guards, how often they agree, then each pair with its first twenty flips."""
    console = _console()
    names = [letter(place) for place in range(len(report.guards))]
    for name, guard in zip(names, report.guards, strict=True):
        bounds = [
            f"{field} from {score:.6g} in mode {mode}"
            for mode, fields in guard.thresholds.items()
            for field, score in fields.items()
        ]
        rule = f"unsafe by {', '.join(bounds)}" if bounds else "by argmax"
        _print(console, f"{name}: {shown(guard.guard)}, {rule}")
    if len(names) <= _MATRIX:
        table = _table(f"same verdicts, of {report.texts} texts")
        for name in ("", *names):
            table.add_column(name, justify="right", no_wrap=True)
        for name, row in zip(names, report.agreement, strict=True):
            table.add_row(name, *(f"{share:.2%}" for share in row))
        console.print(table)
    for pair in report.pairs:
        _show_pair(console, pair, alone=len(names) > _MATRIX)
    for path in report.plots:
        _print(console, path)


def _show_pair(console: Console, pair: Pair, *, alone: bool) -> None:
    first, second = letter(pair.first), letter(pair.second)
    _print(
        console,
        f"{first} and {second}: {len(pair.flips)} flips, score change {pair.mean_score_change:.4f} in the mean, "
        f"{pair.worst_score_change:.4f} at worst",
    )
    if alone:
        _print(console, f"  same verdict on {pair.agreement:.2%} of the texts")
    if not pair.flips:
        return
    table = _table()
    table.add_column("line", justify="right", no_wrap=True)
    table.add_column("id", overflow="fold")
    for name in (first, second):
        table.add_column(f"{name} label", overflow="fold")
        table.add_column(f"{name} score", justify="right", no_wrap=True)
        table.add_column(f"{name} margin", justify="right", no_wrap=True)
    for flip in pair.flips[:_SHOWN]:
        table.add_row(*_flip(flip))
    console.print(table)
    if len(pair.flips) > _SHOWN:
        _print(console, f"and {len(pair.flips) - _SHOWN} more, which --json has")


def _flip(flip: Flip) -> list[Text]:
    cells = [str(flip.line), "" if flip.id is None else shown(flip.id)]
    for side in (flip.first, flip.second):
        cells += [shown(side.label), f"{side.score:.4f}", f"{side.margin:+.3f}"]
    return [Text(cell) for cell in cells]


def shown(value: Any) -> str:
    """A name of the user's own, without anything a terminal would obey."""
    return value if isinstance(value, str) and value.isprintable() else dump(value)


def _console() -> Console:
    """Lines of text are left to the terminal to wrap, so that paths can be copied."""
    return Console(width=_WIDTH, soft_wrap=True)


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False)


def _table(title: str | None = None) -> Table:
    return Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
