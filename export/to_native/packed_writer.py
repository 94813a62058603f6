"""Writes model.packed as the weights stream by: it keeps the decoder's tensors, and none of its nodes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from guardpass.format.packed import ALIGNMENT, DTYPES, Dtype, Entry, header_bytes

from .layout import Integers, interleaved, tensors

Rows = npt.NDArray[Any]
_NAMES: dict[np.dtype[Any], Dtype] = {dtype: name for name, dtype in DTYPES.items() if name != "BF16"}
_NAMES[np.dtype(ml_dtypes.bfloat16)] = "BF16"
_GATE, _UP, _BOTH = ".gate_proj", ".up_proj", ".gate_up"
_ENTRY = 256  # bytes that a tensor takes in the header, at most

# Tensors that the kernels read in another shape than a graph, which has a batch and multiplies from the right.
_OTHERWISE: tuple[tuple[str, Callable[[Rows], Rows]], ...] = (
    ("verdict_head", np.transpose),
    (".k_prefix", lambda batch: batch[0]),
    (".v_prefix", lambda batch: batch[0]),
)


class Packed:
    """Appends tensors to a file behind room for its header, which is complete last."""

    def __init__(self, path: Path, most: int) -> None:
        """most: tensors there may be."""
        self._entries: dict[str, Entry] = {}
        self._gate: Integers | None = None
        self._place = most * _ENTRY + -(most * _ENTRY) % ALIGNMENT
        self._file = path.open("wb")
        self._file.seek(self._place)
        self._size = 0

    def op(
        self, _kind: str, _inputs: Sequence[str], name: str, /, outputs: int = 1, **_attributes: Any
    ) -> tuple[str, ...]:
        """Nothing: the kernels have it in code."""
        return tuple(f"{name}/{i}" for i in range(outputs))

    def constant(self, _value: Rows) -> str:
        """Nothing, as `op`."""
        return "constant"

    def weight(self, name: str, value: Rows) -> str:
        """A tensor, whole."""
        for end, change in _OTHERWISE:
            if name.endswith(end):
                value = change(value)
        self.begin_weight(name, value.dtype, value.shape)
        self.append(value)
        return name

    def begin_weight(self, name: str, dtype: np.dtype[Any], shape: Sequence[int]) -> None:
        """Declare a tensor whose bytes follow through `append`."""
        gap = -self._size % ALIGNMENT
        self._file.write(b"\0" * gap)
        self._size += gap
        length = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self._entries[name] = Entry(_NAMES[dtype], tuple(shape), (self._size, self._size + length))

    def append(self, value: Rows) -> None:
        """Bytes of the tensor begun last."""
        data = np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
        self._file.write(data)
        self._size += len(data)

    def linear(self, name: str, weights: Integers) -> str:
        """A linear layer. The gate's waits for the up-projection behind it: the kernels run the two as one."""
        if name.endswith(_GATE):
            self._gate = weights
            return name
        stored = name
        if name.endswith(_UP):
            assert self._gate
            stored = name.removesuffix(_UP) + _BOTH
            weights, self._gate = interleaved(self._gate, weights), None
        for part, value in tensors(weights):
            self.weight(f"{stored}.{part}", value)
        return name

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write the header into its place, made up with spaces."""
        header = header_bytes(metadata, self._entries, self._place)
        self._file.seek(0)
        self._file.write(header)
        self._file.close()

    def close(self) -> None:
        """Release the file of an export that failed."""
        self._file.close()
