"""Passes side by side in one, each padded to the same shape, so that none sees the padding or another."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ...plan import Pass

Arrays = dict[str, npt.NDArray[np.int64] | npt.NDArray[np.bool_]]


def padded(requests: Sequence[Pass], batch: int, length: int, slots: int) -> Arrays:
    """The inputs of the graph for up to `batch` passes of up to `length` tokens and `slots` slots over P columns.

    tokens, positions [batch, length]; mask [batch, 1, length, P + length]; slots [batch, slots]. A row of padding sees
    itself alone, as the softmax of none is no number; no other sees it. Slots left over read the first slot again,
    batch rows left over are the first pass again.
    """
    baked = requests[0].prefix_len
    tokens, positions = np.zeros((batch, length), np.int64), np.zeros((batch, length), np.int64)
    mask = np.zeros((batch, 1, length, baked + length), np.bool_)
    rows = np.zeros((batch, slots), np.int64)
    for each, request in enumerate(requests):
        total, scored = request.tokens.size, request.slots.size
        tokens[each, :total], positions[each, :total] = request.tokens[0], request.positions[0]
        mask[each, 0, :total, : baked + total] = request.mask[0, 0]
        rest = np.arange(total, length)
        mask[each, 0, rest, baked + rest] = True
        rows[each] = request.slots[0, 0]
        rows[each, :scored] = request.slots[0]
    for array in (tokens, positions, mask, rows):
        array[len(requests) :] = array[0]
    return {"tokens": tokens, "positions": positions, "mask": mask, "slots": rows}
