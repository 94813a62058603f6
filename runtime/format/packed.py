"""model.packed, read and written as bytes: a header that names tensors, and the tensors, to be used where they lie.

8 bytes of length, little-endian; a JSON header (safetensors' own: dtype, shape, data_offsets, "__metadata__") padded
with spaces; data. Unlike in safetensors every tensor begins at a multiple of 64 bytes, one behind the other.
"""

import json
import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .codec import decode

Dtype = Literal["F32", "F16", "BF16", "I32", "I8", "U8"]
Arrays = dict[str, npt.NDArray[Any]]

ALIGNMENT = 64  # a cache line, and the widest vector
# numpy has no bfloat16: its bits are handed on as they are.
DTYPES: dict[Dtype, np.dtype[Any]] = {
    "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"), "I32": np.dtype("<i4"),
    "I8": np.dtype("i1"), "U8": np.dtype("u1"),
}  # fmt: skip
_LONGEST = 64 << 20  # bytes of a header
_DIMENSIONS, _LARGEST = 8, 1 << 40


@dataclass(frozen=True)
class Entry:
    """A tensor: [start, stop) are bytes from where the data begins."""

    dtype: Dtype
    shape: tuple[int, ...]
    data_offsets: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """What a file says of itself. data: the byte at which its tensors begin."""

    metadata: dict[str, str]
    entries: dict[str, Entry]
    data: int


def header_bytes(metadata: Mapping[str, str], entries: Mapping[str, Entry], size: int) -> bytes:
    """Length and header, of `size` bytes in all, a multiple of 64. Raises ValueError where they take more."""
    table = {name: {"dtype": e.dtype, "shape": e.shape, "data_offsets": e.data_offsets} for name, e in entries.items()}
    text = json.dumps({"__metadata__": metadata, **table}, separators=(",", ":")).encode()
    if 8 + len(text) > size:
        raise ValueError(f"the header takes {8 + len(text)} bytes, and {size} were kept for it")
    return (size - 8).to_bytes(8, "little") + text.ljust(size - 8)


def open_tensors(path: Path, *, in_memory: bool = False) -> tuple[Header, Arrays]:
    """The header and the tensors, read-only; mapped, not copied, unless they shall be `in_memory`.

    Raises ValueError for a file that lies, OSError.
    """
    mapped = _read(path) if in_memory else _map(path)
    header = parse(memoryview(mapped))
    arrays: Arrays = {}
    for name, entry in header.entries.items():
        start, count = header.data + entry.data_offsets[0], math.prod(entry.shape)
        arrays[name] = np.frombuffer(mapped, DTYPES[entry.dtype], count, start).reshape(entry.shape)
    return header, arrays


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # a ValueError where the file is empty


def _read(path: Path) -> memoryview:
    """The bytes, in memory that is aligned as a mapping would be."""
    held = mmap.mmap(-1, path.stat().st_size)
    with path.open("rb") as file:
        file.readinto(held)
    return memoryview(held).toreadonly()


def parse(file: memoryview) -> Header:
    """The header of a whole file, every size and offset proved. Raises ValueError naming what is wrong."""
    length = int.from_bytes(file[:8], "little")
    data = 8 + length
    if len(file) < data or length > _LONGEST or data % ALIGNMENT:
        raise ValueError(f"a header of {length} bytes in a file of {len(file)}, expected one that fits, made up to 64")
    try:
        table = json.loads(bytes(file[8:data]), object_pairs_hook=_distinct)
    except RecursionError:
        raise ValueError("the header is nested too deep to be one") from None
    if not isinstance(table, dict):
        raise ValueError(f"the header is {type(table).__name__}, expected an object")
    metadata = decode(dict[str, str], table.pop("__metadata__", None), "__metadata__")
    entries = decode(dict[str, Entry], table, "tensors")
    end = 0
    for name, entry in entries.items():
        end = _end(name, entry, end)
    if data + end != len(file):
        raise ValueError(f"the tensors end at byte {data + end} of {len(file)}")
    return Header(metadata, entries, data)


def _end(name: str, entry: Entry, end: int) -> int:
    """Where a tensor ends, which has to begin at the first multiple of 64 behind the one before."""
    shape, offsets = entry.shape, entry.data_offsets
    if not 1 <= len(shape) <= _DIMENSIONS or not all(1 <= size < _LARGEST for size in shape):
        raise ValueError(f"{name} has shape {list(shape)}, expected 1 to {_DIMENSIONS} positive sizes")
    start = end + -end % ALIGNMENT
    expected = start, start + math.prod(shape) * DTYPES[entry.dtype].itemsize
    if offsets != expected:
        raise ValueError(f"{name} lies at {list(offsets)}, expected {list(expected)} by its order, dtype and shape")
    return expected[1]


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("the header names something twice")
    return found
