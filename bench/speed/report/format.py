"""Formats numbers and markdown for the tables of a report."""

from collections.abc import Iterable, Sequence

from .statistics import Interval


def number(value: float | None, unit: str = "") -> str:
    """Three significant digits; "-" for what was not measured."""
    if value is None:
        return "-"
    return (f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}") + unit


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def percents(value: float | None, interval: Interval | None) -> str:
    """A share and its interval, "95.0 % (93.1-96.5)"."""
    if value is None or interval is None:
        return percent(value)
    low, high = interval
    return f"{percent(value)} ({100 * low:.1f}-{100 * high:.1f})"


def ratio(value: float | None, interval: Interval | None) -> str:
    """Of times, "0.912 (0.907-0.918)" or "2.25 (2.24-2.26)"."""
    if value is None or interval is None:
        return "-" if value is None else _ratio(value)
    return f"{_ratio(value)} ({'-'.join(map(_ratio, interval))})"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def ranged(value: float | None, interval: Interval | None, unit: str = "") -> str:
    """A value and its interval, "12.3 (12.1-12.5)"."""
    if value is None or interval is None:
        return number(value, unit)
    low, high = interval
    return f"{number(value, unit)} ({number(low)}-{number(high)})"


def bold(text: str) -> str:
    return f"**{text}**"


def code(text: str) -> str:
    """A command, as it is to be typed."""
    marks = "``" if "`" in text else "`"
    return f"{marks}{' '.join(text.split())}{marks}" if text.strip() else "-"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A markdown table, its first `left` columns aligned to the left and the others to the right."""
    rule = ["---" if column < left else "---:" for column in range(len(head))]
    lines = (head, rule, *rows)
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    """On one line, and without what ends a cell."""
    return " ".join(text.split()).replace("|", "\\|")
