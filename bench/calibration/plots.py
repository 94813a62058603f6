"""The PNG files of `calibrate` and `compare`. They show neither texts nor ids nor categories."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from guardpass.errors import InputError

from .operating_point import Bools, Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SAFE, _UNSAFE, _LINE = "#3b7dd8", "#d1495b", "#333333"


def draw_precision_recall(
    path: Path, title: str, truth: Bools, scores: Floats, points: dict[str, tuple[float | None, float | None]]
) -> None:
    """The curve over all thresholds of labels [N] and scores [N], with points (recall, precision) by name."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    precision, recall, _ = precision_recall_curve(truth, scores)
    with _axes(path, title, "recall (share of the unsafe texts that are flagged)", "precision") as axes:
        area = average_precision_score(truth, scores)
        axes.step(recall, precision, where="post", color=_LINE, label=f"all thresholds, AU-PRC {area:.3f}")
        axes.axhline(truth.mean(), color="#999999", linewidth=1, linestyle=":", label="flagging at random")
        for marker, color, (name, (x, y)) in zip("os", (_SAFE, _UNSAFE), points.items(), strict=False):
            if x is not None and y is not None:
                axes.plot(x, y, marker, color=color, markersize=8, label=name, linestyle="none")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.legend(loc="lower left")


def draw_scores(path: Path, title: str, truth: Bools, scores: Floats, threshold: float) -> None:
    """A histogram of the scores [N] of each label. Counts are logarithmic: most scores are near 0 or 1."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    with _axes(path, title, "score (probability of unsafe)", "texts (logarithmic)") as axes:
        drawn = [scores[chosen & (scores >= 0)] for chosen in (~truth, truth)]
        names = [f"{name} by label ({len(part)})" for name, part in zip(("safe", "unsafe"), drawn, strict=True)]
        axes.hist(drawn, bins=np.linspace(0, 1, 41).tolist(), color=[_SAFE, _UNSAFE], label=names, log=True)
        axes.axvline(threshold, color=_LINE, linewidth=1.5, linestyle="--", label=f"threshold {threshold:.4f}")
        axes.set(xlim=(-0.02, 1.02), ylim=(0.7, 2 * axes.get_ylim()[1]))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.legend(loc="upper center", ncols=3, fontsize="small")


def draw_pair(path: Path, names: Sequence[str], scores: Floats, flipped: Bools) -> None:
    """The scores of two guards on the same texts, [2, N]; texts on which they differ [N] stand out."""
    title = f"{scores.shape[1]} texts, {int(flipped.sum())} flips"
    with _axes(path, title, f"score, {names[0]}", f"score, {names[1]}") as axes:
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle=":")
        for chosen, color, label in ((~flipped, _SAFE, "same verdict"), (flipped, _UNSAFE, "other verdict")):
            axes.scatter(scores[0, chosen], scores[1, chosen], s=18, alpha=0.55, color=color, linewidths=0, label=label)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.legend(loc="upper left")


@contextmanager
def _axes(path: Path, title: str, x: str, y: str) -> Iterator["Axes"]:
    """One plot, written to `path` when the block ends. Raises InputError where it cannot be written."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"text.parse_math": False, "text.usetex": False}):  # a guard may be named $x$
        figure = Figure(figsize=(7, 5.5), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set(title=title, xlabel=x, ylabel=y)
        axes.grid(alpha=0.25)
        yield axes
        try:
            figure.savefig(path, format="png")
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}; choose another --plots") from None
