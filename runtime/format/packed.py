"""The container model.packed: a header that names tensors, and the tensors, which are mapped in place.

The layout: 8 bytes of length, little-endian; a JSON header like that of safetensors (dtype, shape, data_offsets,
"__metadata__"), padded with spaces; the data. Unlike in safetensors, every tensor begins at a multiple of 64 bytes.
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

from .codec import decode, encode

Dtype = Literal["F32", "F16", "BF16", "I32", "I8", "U8"]
Arrays = dict[str, npt.NDArray[Any]]

ALIGNMENT = 64  # bytes of a cache line and of the widest vector
# NumPy has no bfloat16, so arrays hold its bits.
DTYPES: dict[Dtype, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I32": np.dtype("<i4"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
}
_LONGEST = 64 << 20  # bytes of a header
_DIMENSIONS, _LARGEST = 8, 1 << 40


@dataclass(frozen=True)
class Entry:
    """A tensor. data_offsets: (start, stop) in bytes from the beginning of the data."""

    dtype: Dtype
    shape: tuple[int, ...]
    data_offsets: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """The header of a file. data: the byte at which the tensors begin."""

    metadata: dict[str, str]
    entries: dict[str, Entry]
    data: int


def header_bytes(metadata: Mapping[str, str], entries: Mapping[str, Entry], size: int) -> bytes:
    """Length and header, padded to `size` bytes, a multiple of 64. Raises ValueError if they need more."""
    table = {name: encode(entry) for name, entry in entries.items()}
    text = json.dumps({"__metadata__": metadata, **table}, separators=(",", ":")).encode()
    if 8 + len(text) > size:
        raise ValueError(f"the header takes {8 + len(text)} bytes, expected at most the {size} reserved for it")
    return (size - 8).to_bytes(8, "little") + text.ljust(size - 8)


def open_tensors(path: Path, *, in_memory: bool = False) -> tuple[Header, Arrays]:
    """The header and the tensors, read-only: mapped, or with `in_memory` read.

    Raises ValueError for an invalid file, OSError.
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
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # raises ValueError for an empty file


def _read(path: Path) -> memoryview:
    """The bytes of a file, in memory aligned like a mapping."""
    memory = mmap.mmap(-1, path.stat().st_size)
    with path.open("rb") as file:
        file.readinto(memory)
    return memoryview(memory).toreadonly()


def parse(file: memoryview) -> Header:
    """The header of a whole file, with every size and offset checked. Raises ValueError."""
    length = int.from_bytes(file[:8], "little")
    data = 8 + length
    if len(file) < data or length > _LONGEST or data % ALIGNMENT:
        raise ValueError(
            f"a header of {length} bytes in a file of {len(file)}, expected one that fits and is padded to 64"
        )
    try:
        table = json.loads(bytes(file[8:data]), object_pairs_hook=_distinct)
    except RecursionError:
        raise ValueError("the header is nested too deeply, expected an object of objects") from None
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
    """The end of a tensor. It must begin at the first multiple of 64 after the end of the previous one."""
    shape, offsets = entry.shape, entry.data_offsets
    if not 1 <= len(shape) <= _DIMENSIONS or not all(1 <= size < _LARGEST for size in shape):
        raise ValueError(f"{name} has shape {list(shape)}, expected 1 to {_DIMENSIONS} positive sizes")
    start = end + -end % ALIGNMENT
    expected = start, start + math.prod(shape) * DTYPES[entry.dtype].itemsize
    if offsets != expected:
        raise ValueError(f"{name} lies at {list(offsets)}, expected {list(expected)} by its order, dtype and shape")
    return expected[1]


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("the header names something twice")
    return table
