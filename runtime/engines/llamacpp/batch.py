"""Builds a llama_batch from NumPy arrays, without allocation in C and without a loop over tokens."""

import ctypes
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt


def make_batch(
    llama: ModuleType,
    tokens: npt.NDArray[np.int64],
    positions: npt.NDArray[np.int64],
    carries: npt.NDArray[np.bool_],
    scored: npt.NDArray[np.int64],
) -> tuple[Any, list[npt.NDArray[Any]]]:
    """The batch, and the arrays that it points into. The arrays must outlive the batch.

    tokens, positions: [T].
    carries: [T, Q], True where token t belongs to sequence q.
    scored: the rows that need logits.
    """
    sequences = carries.nonzero()[1].astype(np.int32)
    counts = carries.sum(axis=1, dtype=np.int32)
    starts = (np.cumsum(counts) - counts).astype(np.uintp) * sequences.itemsize + sequences.ctypes.data
    logits = np.zeros(len(tokens), np.int8)
    logits[scored] = 1
    ids, places = tokens.astype(np.int32), positions.astype(np.int32)

    def pointer(array: npt.NDArray[Any], name: str) -> Any:
        return ctypes.cast(array.ctypes.data, dict(llama.llama_batch._fields_)[name])

    batch = llama.llama_batch(
        n_tokens=len(tokens),
        token=pointer(ids, "token"),
        embd=None,
        pos=pointer(places, "pos"),
        n_seq_id=pointer(counts, "n_seq_id"),
        seq_id=pointer(starts, "seq_id"),
        logits=pointer(logits, "logits"),
    )
    return batch, [ids, places, counts, sequences, starts, logits]
