"""Labels that do not overlap: at the ends of lines, and beside points."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .style import Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = tuple[float, float]  # in the data's coordinates

_SIZE = 8.5  # of letters, in points of 1/72 inch
_MARKER = 5.0  # half of one, and what is kept clear around it
# Right and up from a point, in points of 1/72 inch, the nearest first.
_PLACES = [
    (side * max(8.0, away * float(np.cos(angle))), away * float(np.sin(angle)))
    for away in (9, 18, 30, 45, 60, 80, 100)
    for side in (1, -1)
    for angle in np.radians([0, 40, -40, 75, -75])
]


def label_ends(axes: "Axes", ends: Sequence[tuple[Look, Point]]) -> None:
    """Names to the right of the axes, each as near to its line's end as the others allow."""
    from sklearn.isotonic import isotonic_regression

    figure = _laid_out(axes)
    to_axes = (axes.transData + axes.transAxes.inverted()).transform
    placed = sorted(((*to_axes(point), look) for look, point in ends), key=lambda end: end[1])
    gap = 1.35 * _SIZE / 72 * figure.dpi / axes.get_window_extent().height
    steps = gap * np.arange(len(placed))
    # The least squares of moves that keep order and gaps.
    wanted = np.array([y for _, y, _ in placed]) - steps
    places = isotonic_regression(wanted, y_min=0, y_max=max(0, 1 - gap * (len(placed) - 1))) + steps
    for (x, y, look), place in zip(placed, places, strict=True):
        axes.plot([x, 1.02], [y, place], transform=axes.transAxes, clip_on=False, color=look.color, linewidth=0.6)
        axes.text(1.03, place, look.label, transform=axes.transAxes, va="center", **_letters(look))


def label_points(axes: "Axes", points: Sequence[tuple[Look, Point]]) -> None:
    """Names beside their points: in the first place that is free of points, of other names and of the edge."""
    from matplotlib.transforms import Bbox

    figure = _laid_out(axes)
    unit = figure.dpi / 72
    inside = axes.get_window_extent()
    around = [axes.transData.transform(point) for _, point in points]
    taken = [Bbox.from_extents(*(at - _MARKER * unit), *(at + _MARKER * unit)) for at in around]
    # Whoever stands out is placed first.
    for (look, point), at in sorted(zip(points, around, strict=True), key=lambda item: not item[0][0].ours):
        sized = axes.text(*point, look.label, **_letters(look))
        size = sized.get_window_extent().size
        sized.remove()
        boxes = []
        for right, up in _PLACES:
            x, y = at + unit * np.array([right, up])
            boxes.append(Bbox.from_bounds(x - (size[0] if right < 0 else 0), y - size[1] / 2, *size).padded(1))
        free = (
            number
            for number, box in enumerate(boxes)
            if not any(box.overlaps(other) for other in taken)
            and inside.x0 <= box.x0
            and box.x1 <= inside.x1
            and inside.y0 <= box.y0
            and box.y1 <= inside.y1
        )
        chosen = next(free, 0)
        taken.append(boxes[chosen])
        place = _PLACES[chosen]
        line = {"arrowstyle": "-", "color": look.color, "linewidth": 0.5, "shrinkA": 0, "shrinkB": _MARKER}
        axes.annotate(
            look.label,
            point,
            place,
            textcoords="offset points",
            va="center",
            ha="left" if place[0] > 0 else "right",
            arrowprops=line if np.hypot(*place) > 2 * _MARKER else None,
            **_letters(look),
        )


def _letters(look: Look) -> dict[str, Any]:
    return {"color": look.color, "fontsize": _SIZE, "fontweight": "bold" if look.ours else "normal"}


def _laid_out(axes: "Axes") -> "Figure":
    """The figure, once it is known where on it the axes are."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    return figure
