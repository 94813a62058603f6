"""4-bit weights whose rounding errors make up for each other (GPTQ: Frantar et al., arXiv 2210.17323).

Column by column, the error of rounding one is spread over those not yet rounded, by how alike the two are on the
calibration's activations.
"""

from collections.abc import Callable, Iterable
from functools import cached_property

import numpy as np
import numpy.typing as npt

from guardpass.errors import CheckpointError

from ..checkpoint.files import Array

_GROUP = 2048  # columns that share errors; bounds the time of a factor, which is cubic in it
_SEARCH = (1.08, 1.0, 0.93, 0.86, 0.79)
_DAMPING = 0.01  # of the mean of the diagonal, as in the paper

ScaleOf = Callable[[Array], Array]  # the scales [N] of a block of columns [size, N]


class Seen:
    """Calibration's activations at a linear layer's input, [rows, K], as the graph holds them."""

    def __init__(self, rows: Callable[[], Array]) -> None:
        """rows: called once, and only by a recipe that is calibrated; no rows leave plain rounding."""
        self._rows = rows

    @cached_property
    def factors(self) -> list[Array]:
        """For each group of columns the upper Cholesky factor of the damped Hessian's inverse."""
        rows = self._rows()
        return [_factor(rows[:, start : start + _GROUP]) for start in range(0, rows.shape[1], _GROUP)]


def _factor(rows: Array) -> Array:
    hessian = (rows.T @ rows).astype(np.float64)
    if not np.isfinite(hessian).all():
        raise CheckpointError(
            "the weights overflow float32 on the calibration's texts, so they cannot be corrected by these; check the "
            "checkpoint, its files may be damaged"
        )
    mean = np.trace(hessian) / len(hessian) or 1.0
    hessian[np.diag_indices_from(hessian)] += _DAMPING * mean
    upper: Array = np.linalg.cholesky(np.linalg.inv(hessian)).T.astype(np.float32)
    return upper


def rounded(weights: Array, seen: Seen, block: int, scale_of: ScaleOf) -> tuple[npt.NDArray[np.int8], Array]:
    """Levels [N, K] from -8 to 7 and scales [N, K / block] of weights [N, K]."""
    columns = np.array(weights.T, order="C")  # a copy, as what is not yet rounded changes
    levels = np.empty(columns.shape, np.int8)
    scales = np.empty((-(-len(columns) // block), columns.shape[1]), np.float32)
    for group, upper in enumerate(seen.factors):
        first = group * _GROUP
        left = columns[first : first + len(upper)]
        for start in range(0, len(upper), block):
            part = slice(start, start + block)
            now = left[part]
            scale = scales[(first + start) // block] = scale_of(now)
            errors = np.empty_like(now)
            for j in range(len(now)):
                level = np.clip(np.rint(now[j] / scale), -8, 7)
                levels[first + start + j] = level
                errors[j] = (now[j] - level * scale) / upper[start + j, start + j]
                now[j + 1 :] -= upper[start + j, start + j + 1 : start + block, None] * errors[j]
            left[start + block :] -= upper[part, start + block :].T @ errors
    return levels.T, scales.T


def free_scale(block: Array) -> Array:
    """Of a few scales [N] for a block [size, N], that of the least squared error."""
    # The value of largest magnitude maps to -8 exactly, which uses all 16 levels; other scales are near that one.
    extreme = np.take_along_axis(block, np.abs(block).argmax(axis=0)[None], axis=0)[0]
    base = np.where(np.abs(extreme) < 1e-30, 1, extreme / -8).astype(np.float32)
    return best_scale(block, (base * np.float32(factor) for factor in _SEARCH))


def best_scale(block: Array, scales: Iterable[Array]) -> Array:
    """Of scales, each [N], for every column of a block [size, N] that of the least squared error."""
    best, chosen = np.full(block.shape[1], np.inf, np.float32), np.empty(block.shape[1], np.float32)
    for tried in scales:
        error = np.square(np.clip(np.rint(block / tried), -8, 7) * tried - block).sum(axis=0)
        better = error < best
        best, chosen = np.where(better, error, best), np.where(better, tried, chosen)
    return chosen
