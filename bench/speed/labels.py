"""Labels that do not overlap: at the ends of lines, and beside points."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .canvas import Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE = 8.5  # points
# Right and up from a point, in points of 1/72 inch, the nearest first.
_PLACES = [
    (side * max(8.0, away * abs(np.cos(angle))), away * np.sin(angle))
    for away in (9.0, 18.0, 30.0, 45.0, 60.0, 80.0, 100.0)
    for side in (1, -1)
    for angle in np.radians([0, 40, -40, 75, -75])
]
Point = tuple[float, float]  # in the data's coordinates


def label_ends(axes: "Axes", ends: Sequence[tuple[Look, Point]]) -> None:
    """Names to the right of the axes, each as near to its line's end as the others allow."""
    from sklearn.isotonic import isotonic_regression

    figure = axes.figure
    figure.draw_without_rendering()  # so that the layout is known
    to_axes = (axes.transData + axes.transAxes.inverted()).transform
    found = sorted(((*to_axes(point), look) for look, point in ends), key=lambda each: each[1])
    gap = 1.35 * _SIZE / 72 * figure.dpi / axes.get_window_extent().height
    steps = gap * np.arange(len(found))
    # The least squares of moves that keep the order and the gaps.
    wanted = np.array([y for _, y, _ in found]) - steps
    places = isotonic_regression(wanted, y_min=0, y_max=max(0, 1 - gap * (len(found) - 1))) + steps
    for (x, y, look), place in zip(found, places, strict=True):
        axes.plot([x, 1.02], [y, place], transform=axes.transAxes, clip_on=False, color=look.color, linewidth=0.6)
        axes.text(
            1.03, place, look.label, transform=axes.transAxes, color=look.color, fontsize=_SIZE, va="center",
            fontweight="bold" if look.ours else "normal",
        )  # fmt: skip


def label_points(axes: "Axes", points: Sequence[tuple[Look, Point]]) -> None:
    """Names beside their points: where the first of some places is free of points and other names."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    figure = axes.figure
    figure.draw_without_rendering()
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    around = [axes.transData.transform(point) for _, point in points]
    taken = [Bbox.from_bounds(x - 7, y - 7, 14, 14) for x, y in around]
    inside = axes.get_window_extent()
    # Whoever stands out is placed first.
    for look, point in sorted(points, key=lambda each: not each[0].ours):
        note = axes.annotate(
            look.label, point, xytext=(0, 0), textcoords="offset points", va="center", color=look.color,
            fontsize=_SIZE, fontweight="bold" if look.ours else "normal",
            arrowprops={"arrowstyle": "-", "color": look.color, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 4},
        )  # fmt: skip
        for right, up in _PLACES:
            note.set_ha("left" if right >= 0 else "right")
            note.xyann = (right, up)
            note.update_positions(canvas.get_renderer())
            box = Text.get_window_extent(note).padded(1.5)  # the annotation's own has its line in it
            free = not any(box.overlaps(other) for other in taken)
            if free and inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1:
                break
        taken.append(box)
