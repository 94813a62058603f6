"""Integer weights as the kernels read them: panels of 64 rows, four columns of each row side by side.

Four, as one instruction multiplies four bytes of a row by four of an activation; 64, as that many sums are kept in
registers. kernels/README.md has the figure.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from guardpass.format.packed_rules import GROUP, PANEL

from ..checkpoint.files import Array

Bytes = npt.NDArray[np.uint8]
_HALF = PANEL // 2


@dataclass(frozen=True)
class Integers:
    """Weights [N, K] as scale[n] x group[n, k / 32] x level[n, k]; the product of the last two is of 8 bits."""

    levels: npt.NDArray[np.int8]  # [N, K]
    scale: Array  # [N]
    group: Bytes | None = None  # [N, ceil(K / 32)], of 4-bit levels


def interleaved(gate: Integers, up: Integers) -> Integers:
    """32 rows of the one, 32 of the other, and so on: a panel then has all that a gated activation needs."""
    both = None if gate.group is None or up.group is None else _alternating(gate.group, up.group, 1)
    return Integers(_alternating(gate.levels, up.levels, 0), _alternating(gate.scale, up.scale, 0), both)


def tensors(weights: Integers) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """The tensors of a layer by the end of their names; rows that make up a panel are zero."""
    levels = _rows(weights.levels, PANEL, 0)
    yield "scale", _rows(weights.scale, PANEL, 0)
    if weights.group is None:
        yield "sum", levels.sum(axis=1, dtype=np.int32)
        yield "weight", _columns(levels, 4).reshape(len(levels) // PANEL, PANEL, -1, 4).transpose(0, 2, 1, 3)
        return
    group = _rows(weights.group, PANEL, 1)
    parts = _columns(levels, GROUP).reshape(len(levels), -1, GROUP)
    yield "sum", (parts.sum(axis=2, dtype=np.int32) * group).sum(axis=1, dtype=np.int32)
    yield "group", group.reshape(-1, PANEL, group.shape[1]).transpose(0, 2, 1)
    yield "weight", _nibbles(parts)


def _nibbles(levels: npt.NDArray[np.int8]) -> Bytes:
    """[N, G, 32] to [N / 64, G, 4, 64, 4]: a byte has a level and, in its upper half, the one four columns behind."""
    from_zero = (levels + np.int8(8)).view(np.uint8)
    apart = from_zero.reshape(-1, PANEL, levels.shape[1], 4, 2, 4).transpose(0, 2, 3, 4, 1, 5)
    packed: Bytes = apart[:, :, :, 0] | apart[:, :, :, 1] << np.uint8(4)
    return packed


def _alternating(gate: npt.NDArray[Any], up: npt.NDArray[Any], fill: int) -> npt.NDArray[Any]:
    pair = [_rows(part, _HALF, fill).reshape(-1, _HALF, *part.shape[1:]) for part in (gate, up)]
    return np.stack(pair, axis=1).reshape(-1, *gate.shape[1:])


def _rows(x: npt.NDArray[Any], multiple: int, fill: int) -> npt.NDArray[Any]:
    return np.pad(x, [(0, -len(x) % multiple)] + [(0, 0)] * (x.ndim - 1), constant_values=fill)


def _columns(x: npt.NDArray[Any], multiple: int) -> npt.NDArray[Any]:
    return np.pad(x, ((0, 0), (0, -x.shape[1] % multiple)))
