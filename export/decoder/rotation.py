"""How the graph holds an activation: scaled channel by channel and rotated in blocks, which its consumers undo.

A rotation spreads a few large channels over many, so that one int8 scale serves all of them (QuaRot, arXiv 2404.00456;
SpinQuant, arXiv 2405.16406); folded into the weights on both sides it changes no function, and costs nothing.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from ..checkpoint.files import Array


@dataclass(frozen=True)
class Basis:
    """The graph holds `value / scale @ rotation`; the rotation is the same in every block of `block` channels."""

    scale: Array | None = None  # [width]
    block: int = 1

    def of(self, value: Array) -> Array:
        """A checkpoint's activations [..., width] as the graph holds them."""
        return _turned(value if self.scale is None else value / self.scale, self.block)

    def read(self, weights: Array) -> Array:
        """Weights [N, width] that read the checkpoint's activation, as they read the graph's."""
        return _turned(weights if self.scale is None else weights * self.scale, self.block)

    def write(self, weights: Array) -> Array:
        """Rows [N, K] of weights that make the checkpoint's activation, as they make the graph's."""
        scaled: Array = weights if self.scale is None else weights / self.scale[:, None]
        if self.block == 1:
            return scaled
        spread = rotation(self.block).T @ scaled.reshape(-1, self.block, scaled.shape[1])
        result: Array = spread.reshape(scaled.shape)
        return result

    def repeated(self, heads: int, group: int) -> "Basis":
        """Of values, those of every head: each of `heads` key-value heads serves `group` queries."""
        if self.scale is None:
            return self
        return Basis(np.repeat(self.scale.reshape(heads, -1), group, axis=0).reshape(-1), self.block)


PLAIN = Basis()


def _turned(rows: Array, block: int) -> Array:
    if block == 1:
        return rows
    result: Array = (rows.reshape(-1, block) @ rotation(block)).reshape(rows.shape)
    return result


def block_of(width: int, largest: int) -> int:
    """The largest power of two that divides `width`, up to `largest`."""
    return min(width & -width, largest)


@cache
def rotation(size: int) -> Array:
    """[size, size], orthogonal: a Hadamard matrix (Sylvester), its rows' signs drawn once for all.

    Without the signs a constant input would end in one channel, as large as before.
    """
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    result: Array = (matrix * signs(size)[:, None] / np.sqrt(size)).astype(np.float32)
    return result


def signs(size: int) -> Array:
    """[size], of a rotation: 1 or -1 for each of its rows."""
    if size == 1:
        return np.ones(1, np.float32)
    return np.random.default_rng(size).choice([-1.0, 1.0], size).astype(np.float32)
