"""The pictures of a report: latency, its distribution, rate against p95, roofline, size against fidelity."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ...extras import make_folder, need
from ..report.format import number
from ..report.schema import Contender, Cost, Fidelity, Latency, Peaks, Rate, Report
from ..report.statistics import share_interval
from ..report.subjects import Subject, contenders, only, subjects
from ..report.tables import speed
from .labels import Point, label_ends, label_points
from .style import GREY, Look, looks, picture, plain_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Looks = dict[Contender, Look]
R = TypeVar("R", Latency, Rate)

_DASHED = " (dashed: the whole prompt is run for every request)"


def draw(report: Report, folder: Path) -> tuple[Path, ...]:
    """Draw every plot that the report has rows for, as PNG and SVG, into a folder that is made. Returns the files.

    Raises InputError where something cannot be written, MissingDependency without matplotlib.
    """
    need("drawing plots", "matplotlib", "sklearn")
    make_folder(folder)
    look = looks(contenders(report))
    paths = [path for subject in subjects(report) for path in _drawn(only(report, subject), subject, folder, look)]
    return tuple(Path(f"{path}.{kind}") for path in paths for kind in ("png", "svg"))


def _drawn(own: Report, subject: Subject, folder: Path, look: Looks) -> Iterator[Path]:
    """Draw the plots of a subject, and yield their paths without suffix."""
    cut = "" if subject.layers is None else f"-{subject.layers}-layers"
    stem = f"{_slug(subject.name)}{cut}-{subject.threads}-threads"
    for mode in dict.fromkeys(row.mode for row in own.latency):
        rows = [row for row in own.latency if row.mode == mode]
        lengths = sorted({row.content for row in rows})
        middle = [row for row in rows if row.content == lengths[len(lengths) // 2] and row.samples]
        counted = [row for row in rows if speed(row)]
        if len(lengths) > 1:
            yield draw_latency(folder / f"{stem}-latency-{_slug(mode)}", subject, rows, look)
        if middle:
            yield draw_distribution(folder / f"{stem}-distribution-{_slug(mode)}", subject, middle, look)
        if counted:
            yield draw_roofline(folder / f"{stem}-roofline-{_slug(mode)}", subject, counted, own.peaks, look)
    for content in dict.fromkeys(row.content for row in own.rate):
        tried = [row for row in own.rate if row.content == content and row.ms.p95 is not None]
        if tried:
            yield draw_rate(folder / f"{stem}-rate-{content}", subject, tried, look)
    sizes = {row.contender: row for row in own.cost}
    judged = [(row, sizes[row.contender]) for row in own.fidelity if row.contender in sizes]
    if judged:
        yield draw_fidelity(folder / f"{stem}-fidelity", subject, judged, look)


def draw_latency(path: Path, subject: Subject, rows: Sequence[Latency], look: Looks) -> Path:
    """Medians by content length, with their intervals."""
    title = f"Latency by length, mode {rows[0].mode}"
    with picture(
        path, title, subject, rows[0].environment, f"tokens of content{_DASHED}", "median ms of a verdict"
    ) as axes:
        axes.set(xscale="log", yscale="log")
        ends: list[tuple[Look, Point]] = []
        for who, own in _by_contender(rows, lambda row: row.content):
            x, y = [row.content for row in own], [row.ms.median for row in own]
            bounds = [row.ms.median_interval or (row.ms.median,) * 2 for row in own]
            axes.fill_between(
                x,
                [low for low, _ in bounds],
                [high for _, high in bounds],
                color=look[who].color,
                alpha=0.2,
                linewidth=0,
            )
            axes.plot(x, y, **look[who].line())
            ends.append((look[who], (x[-1], y[-1])))
        plain_ticks(axes.xaxis, sorted({row.content for row in rows}))
        plain_ticks(axes.yaxis)
        label_ends(axes, ends)
    return path


def draw_distribution(path: Path, subject: Subject, rows: Sequence[Latency], look: Looks) -> Path:
    """Empirical distribution of one length's samples."""
    title = f"Latency at {rows[0].content} tokens of content, mode {rows[0].mode}"
    with picture(
        path, title, subject, rows[0].environment, f"ms of a verdict{_DASHED}", "share of requests within"
    ) as axes:
        axes.set(xscale="log", ylim=(-0.02, 1.02))
        for row in sorted(rows, key=lambda row: row.ms.median):
            label = f"{look[row.contender].label}: median {number(row.ms.median)}, N = {row.ms.n}"
            axes.ecdf(row.samples, label=label, markevery=(0.15, 0.3), **look[row.contender].line())
        plain_ticks(axes.xaxis)
        _legend(axes)
    return path


def draw_rate(path: Path, subject: Subject, rows: Sequence[Rate], look: Looks) -> Path:
    """p95 by offered rate; hollow where the bound was not held, ringed the highest rate that held it."""
    title = f"p95 under load, {rows[0].content} tokens of content"
    names = f"requests a second, offered{_DASHED}", "p95 in ms, from the intended send time"
    with picture(path, title, subject, rows[0].environment, *names) as axes:
        axes.set(xscale="log", yscale="log")
        for who, own in _by_contender(rows, lambda row: row.rate):
            style = look[who].line()
            best = next((f": {number(row.rate)}/s" for row in own if row.chosen), "")
            axes.plot([], [], label=look[who].label + best, **style)
            axes.plot([row.rate for row in own], [row.ms.p95 or 0 for row in own], **style | {"marker": ""})
            for row in own:
                x, y, fill = row.rate, row.ms.p95 or 0, "white" if row.held is False else look[who].color
                axes.plot(x, y, **style | {"markerfacecolor": fill})
                if row.chosen:
                    axes.plot(x, y, "o", markersize=13, markerfacecolor="none", color=look[who].color)
        for bound in sorted({row.bound_ms for row in rows if row.bound_ms is not None}):
            axes.axhline(bound, color=GREY, linewidth=1, linestyle=":", label=f"bound, {bound:g} ms")
        plain_ticks(axes.xaxis)
        plain_ticks(axes.yaxis)
        _legend(axes, "ringed: the highest rate that held the bound\nhollow: not held")
    return path


def draw_roofline(path: Path, subject: Subject, rows: Sequence[Latency], peaks: Sequence[Peaks], look: Looks) -> Path:
    """Operations over time by tokens that are run, under what the machine itself can do.

    The int8 peak is the median of those beside the requests, in a band of all of them; else that of the run's first
    seconds.
    """
    title = f"Speed beside the machine's own, mode {rows[0].mode}"
    names = f"tokens that are run{_DASHED}", "GOP/s of the pass, else of the request"
    with picture(path, title, subject, rows[0].environment, *names) as axes:
        axes.set(xscale="log", yscale="log")
        ends: list[tuple[Look, Point]] = []
        for who, own in _by_contender(rows, lambda row: row.run):
            x, y = [row.run for row in own], [speed(row) or 0 for row in own]
            axes.plot(x, y, **look[who].line())
            ends.append((look[who], (x[-1], y[-1])))
        least, most = min(row.run for row in rows), max(row.run for row in rows)
        # Taken beside the requests, where they were: the machine's peak moves meanwhile.
        beside = [peak for row in rows for peak in row.peaks or ()]
        if beside:
            axes.axhspan(min(beside), max(beside), color=GREY, alpha=0.12, linewidth=0, zorder=1)
        for row in peaks[:1]:
            int8 = float(np.median(beside)) if beside else row.int8
            for name, peak in (("int8", int8), ("bf16", row.bf16), ("fp32", row.fp32)):
                if peak:
                    axes.axhline(peak, color=GREY, linewidth=1.2, zorder=2)
                    ends.append((Look(f"{name} peak, {number(peak)} GOP/s", GREY), (most, peak)))
            # A byte a weight, read once for all tokens, 2 operations each.
            ridge = np.array([least, max(least, min(most, (int8 or np.inf) / (2 * row.read_gb_s)))])
            label = f"int8 weights read at {number(row.read_gb_s)} GB/s"
            axes.plot(ridge, 2 * row.read_gb_s * ridge, color=GREY, linestyle=":", zorder=2, label=label)
            axes.legend(loc="best", fontsize=8.5, frameon=False)
        axes.margins(y=0.08)
        plain_ticks(axes.xaxis, [2**power for power in range(21) if least / 2 < 2**power < most * 2])
        plain_ticks(axes.yaxis)
        label_ends(axes, ends)
    return path


def draw_fidelity(path: Path, subject: Subject, rows: Sequence[tuple[Fidelity, Cost]], look: Looks) -> Path:
    """Agreement with fp32 by the size of the files, with intervals: the best are at the upper left."""
    counts = sorted({row.texts for row, _ in rows})
    title = f"Size against fidelity, N = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "")
    names = "MB of files", "same verdict as fp32, % (bars: 95 % intervals)"
    with picture(path, title, subject, rows[0][0].environment, *names) as axes:
        axes.set(xscale="log")
        points: list[tuple[Look, Point]] = []
        for row, cost in rows:
            style, share = look[row.contender], 100 * row.agreement
            low, high = (100 * end for end in share_interval(row.agreement, row.texts))
            axes.vlines(cost.file_mb, low, high, color=style.color, alpha=0.35, linewidth=1.5)
            axes.plot(cost.file_mb, share, **style.line() | {"markersize": 10 if style.ours else 7})
            points.append((style, (cost.file_mb, share)))
        axes.margins(0.12)
        plain_ticks(axes.xaxis)
        label_points(axes, points)
    return path


def _by_contender(rows: Sequence[R], place: Callable[[R], float]) -> Iterator[tuple[Contender, list[R]]]:
    """Each contender's rows, by their place on the x axis."""
    for who in dict.fromkeys(row.contender for row in rows):
        yield who, sorted((row for row in rows if row.contender == who), key=place)


def _legend(axes: "Axes", title: str = "") -> None:
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(1.01, 1),
        fontsize=8.5,
        frameon=False,
        borderaxespad=0,
        title=title or None,
        title_fontsize=8.5,
        alignment="left",
    )


def _slug(name: str) -> str:
    """A name for files."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.") or "unnamed"
