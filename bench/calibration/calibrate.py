"""A guard's thresholds, chosen on a user's labelled texts."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from guardpass import Guard
from guardpass.errors import InputError
from guardpass.manifest import Device, Mode, Threshold

from ..extras import make_folder, need
from .labelled_lines import read_labelled
from .metrics import Metrics, measure
from .operating_point import Bools, Target
from .plots import draw_precision_recall, draw_scores
from .scoring import Plan, Scored, score
from .thresholds import check_writable, write_thresholds

RESAMPLES = 1000
_MOST_RESAMPLES = 100_000


@dataclass(frozen=True)
class ModeReport:
    """One mode. fields: those that got the threshold. categories: each category's own texts, and the safe ones that
    have none.
    """

    mode: Mode
    fields: tuple[str, ...]
    threshold: Threshold
    overall: Metrics
    categories: dict[str, Metrics]


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` chose, and how it does on the texts it was chosen on. written: guard.json has it."""

    guard: str
    labelled: str
    at: str
    resamples: int
    written: bool
    modes: tuple[ModeReport, ...]
    plots: tuple[str, ...]


def calibrate(
    guard: str | os.PathLike[str],
    labelled: str | os.PathLike[str],
    *,
    at: str = "f1",
    field: str | None = None,
    resamples: int = RESAMPLES,
    plots: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    threads: int | None = None,
    device: Device | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Calibration:
    """Choose a threshold for each mode that the labelled lines have, and write it into guard.json.

    labelled: JSONL, see `lines.read_labelled`. at: see `Target`. field: the threshold is for this field alone, by the
    labels of that field; else for every field that decides where no policies are named, by "unsafe". plots: a folder
    for PNG files. resamples: for the intervals. progress: told of texts done, and in all.

    Raises InputError (bad lines, one class only, a target out of reach, a place that cannot be written),
    MissingDependency, GuardError and EngineError; guard.json is as it was then.
    """
    target, directory = Target.parse(at), Path(guard)
    if type(resamples) is not int or not 0 <= resamples <= _MOST_RESAMPLES:
        raise InputError(f"bootstrap is {resamples!r}, expected a whole number from 0 to {_MOST_RESAMPLES}")
    need("calibrating", "sklearn")
    if plots is not None:
        need("drawing plots", "matplotlib")
    given = read_labelled(Path(labelled))
    opened = Guard.load(directory, threads=threads, device=device)
    specs = opened.manifest.modes
    plans = [Plan.of(opened.manifest, mode, field) for mode in given.modes(specs, str(directory))]
    truths = [plan.truth(given, specs[plan.mode]) for plan in plans]
    if not dry_run:
        check_writable(directory)
    if plots is not None:
        make_folder(Path(plots))

    done = 0

    def told() -> None:
        nonlocal done
        done += 1
        progress(done, len(given.lines))

    scored = [score(opened, given, *pair, told) for pair in zip(plans, truths, strict=True)]
    where = [f"{given.path}, mode {each.mode}" for each in scored]
    bounds = [target.choose(each.truth, each.scores, name) for each, name in zip(scored, where, strict=True)]
    chosen = [
        Threshold(bound, str(target), len(each.lines), given.sha256) for each, bound in zip(scored, bounds, strict=True)
    ]
    reports = tuple(_report(*pair, resamples) for pair in zip(scored, chosen, strict=True))
    drawn = [name for pair in zip(scored, reports, strict=True) for name in _draw(*pair, plots)]
    if not dry_run:
        # Scores took their time; what they were of must be what is written to.
        write_thresholds(
            directory, opened.manifest, {each.mode: dict.fromkeys(each.fields, each.threshold) for each in reports}
        )
    return Calibration(str(directory), str(given.path), str(target), resamples, not dry_run, reports, tuple(drawn))


def _report(scored: Scored, threshold: Threshold, resamples: int) -> ModeReport:
    def measured(chosen: Bools) -> Metrics:
        return measure(scored.truth[chosen], scored.scores[chosen], scored.argmax[chosen], threshold.score, resamples)

    categories = [line.category for line in scored.lines]
    common = ~scored.truth & [category is None for category in categories]
    names = sorted({category for category in categories if category is not None})
    return ModeReport(
        scored.mode,
        scored.fields,
        threshold,
        measured(np.ones(len(scored.lines), bool)),
        {name: measured(common | [category == name for category in categories]) for name in names},
    )


def _draw(scored: Scored, report: ModeReport, plots: str | os.PathLike[str] | None) -> list[str]:
    if plots is None:
        return []
    found = report.overall
    points = {
        f"threshold {report.threshold.score:.4f}": (found.threshold.recall.value, found.threshold.precision.value),
        "argmax": (found.argmax.recall.value, found.argmax.precision.value),
    }
    title = f"mode {scored.mode}: {found.texts} texts, {found.unsafe} unsafe"
    curve, histogram = (Path(plots) / f"{kind}-{scored.mode}.png" for kind in ("precision-recall", "scores"))
    draw_precision_recall(curve, title, scored.truth, scored.scores, points)
    draw_scores(histogram, title, scored.truth, scored.scores, report.threshold.score)
    return [str(curve), str(histogram)]
