"""Pads passes to one shape and stacks them. No pass sees padding or another pass."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ...plan import Pass

Arrays = dict[str, npt.NDArray[np.int64] | npt.NDArray[np.bool_]]


def padded(requests: Sequence[Pass], batch: int, length: int, slots: int) -> Arrays:
    """The graph inputs for up to `batch` passes of up to `length` tokens and `slots` slots over P columns.

    tokens, positions: [batch, length]. mask: [batch, 1, length, P + length]. slots: [batch, slots].
    A padding row sees itself alone, because the softmax of an empty row is NaN; no other row sees it. Spare slots
    repeat the first slot, and spare batch rows repeat the first pass.
    """
    baked = requests[0].prefix_len
    tokens = np.zeros((batch, length), np.int64)
    positions = np.zeros((batch, length), np.int64)
    mask = np.zeros((batch, 1, length, baked + length), np.bool_)
    rows = np.zeros((batch, slots), np.int64)
    for index, request in enumerate(requests):
        total, scored = request.tokens.size, request.slots.size
        tokens[index, :total] = request.tokens[0]
        positions[index, :total] = request.positions[0]
        mask[index, 0, :total, : baked + total] = request.mask[0, 0]
        rest = np.arange(total, length)
        mask[index, 0, rest, baked + rest] = True
        rows[index] = request.slots[0, 0]
        rows[index, :scored] = request.slots[0]
    for array in (tokens, positions, mask, rows):
        array[len(requests) :] = array[0]
    return {"tokens": tokens, "positions": positions, "mask": mask, "slots": rows}
