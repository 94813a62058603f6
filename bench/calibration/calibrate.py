"""`guardpass calibrate`: a guard's thresholds, chosen on a user's labelled texts."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from guardpass import Guard
from guardpass.errors import InputError
from guardpass.format.manifest import Device, Mode, Threshold

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
    """One mode. fields: those that got the threshold. categories: metrics of a category's own texts together with the
    safe texts that have no category.
    """

    mode: Mode
    fields: tuple[str, ...]
    threshold: Threshold
    overall: Metrics
    categories: dict[str, Metrics]


@dataclass(frozen=True)
class Calibration:
    """The thresholds that `calibrate` chose, with their metrics on the same texts. written: guard.json has them."""

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

    labelled: JSONL, a line {"text", "response"?, "unsafe": bool, "category"?, "id"?}; for a field
    "labels": {FIELD: bool} instead of "unsafe". at: "f1", "precision=0.98", "recall=0.95" or "fpr=0.01". field: choose
    the threshold of this field alone, by its labels; by default of every field that decides without named policies.
    resamples: for the intervals; 0 gives none. plots: a folder for PNG files. dry_run: leave guard.json as it is.
    progress: called with the texts done and the texts in all.

    Raises InputError (bad lines, one class only, a target out of reach, a place that cannot be written),
    MissingDependency, GuardError and EngineError; guard.json is unchanged then.
    """
    target, directory = Target.parse(at), Path(guard)
    if type(resamples) is not int or not 0 <= resamples <= _MOST_RESAMPLES:
        raise InputError(f"bootstrap is {resamples!r}, expected a whole number from 0 to {_MOST_RESAMPLES}")
    need("calibrating", "sklearn")
    if plots is not None:
        need("drawing plots", "matplotlib")
    lines = read_labelled(Path(labelled))
    opened = Guard.load(directory, threads=threads, device=device)
    specs = opened.manifest.modes
    plans = [Plan.of(opened.manifest, mode, field) for mode in lines.modes(specs, str(directory))]
    truths = [plan.truth(lines, specs[plan.mode]) for plan in plans]
    if not dry_run:
        check_writable(directory)
    if plots is not None:
        make_folder(Path(plots))

    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress(done, len(lines.lines))

    scored = [score(opened, lines, *pair, advance) for pair in zip(plans, truths, strict=True)]
    chosen = []
    for mode in scored:
        bound = target.choose(mode.truth, mode.scores, f"{lines.path}, mode {mode.mode}")
        chosen.append(Threshold(bound, str(target), len(mode.lines), lines.sha256))
    reports = tuple(_report(*pair, resamples) for pair in zip(scored, chosen, strict=True))
    drawn = [name for pair in zip(scored, reports, strict=True) for name in _draw(*pair, plots)]
    if not dry_run:
        # Scoring took a while: thresholds go only to the very manifest that was scored.
        thresholds: dict[str, dict[str, Threshold]] = {
            report.mode: dict.fromkeys(report.fields, report.threshold) for report in reports
        }
        write_thresholds(directory, opened.manifest, thresholds)
    return Calibration(str(directory), str(lines.path), str(target), resamples, not dry_run, reports, tuple(drawn))


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
    overall = report.overall
    points = {
        f"threshold {report.threshold.score:.4f}": (overall.threshold.recall.value, overall.threshold.precision.value),
        "argmax": (overall.argmax.recall.value, overall.argmax.precision.value),
    }
    title = f"mode {scored.mode}: {overall.texts} texts, {overall.unsafe} unsafe"
    curve, histogram = (Path(plots) / f"{kind}-{scored.mode}.png" for kind in ("precision-recall", "scores"))
    draw_precision_recall(curve, title, scored.truth, scored.scores, points)
    draw_scores(histogram, title, scored.truth, scored.scores, report.threshold.score)
    return [str(curve), str(histogram)]
