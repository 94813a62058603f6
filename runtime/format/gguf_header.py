"""Reads and checks the header of a GGUF file, with bounds on every size, before llama.cpp opens the file.

The format is documented in docs/gguf.md of the ggml repository. gguf_rules.py has the rules for metadata and shapes.
"""

import math
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .gguf_rules import check_model

# By GGUF's number of the type: 8-, 16- and 32-bit integers, f32, bool, 64-bit integers, f64.
_SCALARS = dict(zip(range(8), ("<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?"), strict=True))
_SCALARS |= {10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
# By ggml's number of the type, (weights, bytes) of a block: the types of llama.cpp's quantizer that we accept.
BLOCKS = {
    0: (1, 4),  # f32
    1: (1, 2),  # f16
    30: (1, 2),  # bf16
    2: (32, 18),  # q4_0
    3: (32, 20),  # q4_1
    6: (32, 22),  # q5_0
    7: (32, 24),  # q5_1
    8: (32, 34),  # q8_0
    20: (32, 18),  # iq4_nl
    10: (256, 84),  # q2_k
    11: (256, 110),  # q3_k
    12: (256, 144),  # q4_k
    13: (256, 176),  # q5_k
    14: (256, 210),  # q6_k
    23: (256, 136),  # iq4_xs
}

_KEYS, _TENSORS, _ITEMS = 1 << 12, 1 << 14, 1 << 22
_TEXT = 1 << 20  # bytes of a string; the longest are chat templates
_KEY = re.compile(r"[A-Za-z0-9_.:-]{1,255}")


@dataclass(frozen=True)
class Tensor:
    """One tensor. shape: the fastest axis first. type: ggml's number. offset: bytes from the start of the data."""

    shape: tuple[int, ...]
    type: int
    offset: int


@dataclass(frozen=True)
class Header:
    """Metadata by key (arrays as lists of str, or as NumPy arrays) and tensors by name."""

    metadata: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def architecture(self) -> str:
        return str(self.metadata["general.architecture"])

    @property
    def tokens(self) -> list[str]:
        tokens: list[str] = self.metadata["tokenizer.ggml.tokens"]
        return tokens


def read_header(path: Path) -> Header:
    """Read and check a header. Raises ValueError, and no other error, for any invalid file."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Reader(data)
            header = reader.header()
            _check_tensors(header, reader.at, len(data))
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror}") from None
    check_model(header.metadata, {name: tensor.shape for name, tensor in header.tensors.items()})
    return header


class _Reader:
    """Reads values from position `at` on. Raises ValueError past the end or beyond a bound."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0
        self.items = 0

    def header(self) -> Header:
        magic, version = bytes(self._take(4)), self._number("<I")
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError(f"it begins with {magic!r} and version {version}, expected b'GGUF' and 2 or 3")
        tensors, keys = self._count("tensors", _TENSORS), self._count("keys", _KEYS)
        metadata: dict[str, Any] = {}
        for _ in range(keys):
            key = self._name("key")
            if key in metadata:
                raise ValueError(f"the key {key} comes twice")
            metadata[key] = self._value(self._number("<I"))
        table: dict[str, Tensor] = {}
        for _ in range(tensors):
            name = self._name("tensor")
            if name in table or len(name) > 63:
                raise ValueError(f"the tensor {name} comes twice, or has a name of more than 63 bytes")
            dimensions = self._number("<I")
            if not 1 <= dimensions <= 4:
                raise ValueError(f"{name} has {dimensions} dimensions, expected 1 to 4")
            shape = tuple(self._number("<Q") for _ in range(dimensions))
            table[name] = Tensor(shape, self._number("<I"), self._number("<Q"))
        return Header(metadata, table)

    def _take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise self._cut()
        self.at += size
        return self.data[self.at - size : self.at]

    def _cut(self) -> ValueError:
        return ValueError(f"it ends at byte {len(self.data)}, within its header; download or copy it again")

    def _number(self, format: str) -> Any:
        return struct.unpack(format, self._take(struct.calcsize(format)))[0]

    def _count(self, name: str, limit: int) -> int:
        count: int = self._number("<Q")
        self.items += count
        if count > limit or self.items > _ITEMS:
            raise ValueError(f"it has {count} {name}, expected at most {limit}, and {_ITEMS} in all")
        return count

    def _name(self, kind: str) -> str:
        (name,) = self._texts(1)
        if not _KEY.fullmatch(name):
            raise ValueError(
                f"it has a {kind} {name[:60]!r}, expected letters, digits, dots, colons, hyphens and underscores"
            )
        return name

    def _texts(self, count: int) -> list[str]:
        """Read several strings, in a fast loop: there are hundreds of thousands of tokens and merges."""
        data, at, end = self.data, self.at, len(self.data)
        size_at = struct.Struct("<Q").unpack_from
        strings: list[str] = []
        try:
            for _ in range(count):
                if end - at < 8:
                    raise self._cut()
                (size,) = size_at(data, at)
                if size > _TEXT:
                    raise ValueError(f"it has a text of {size} bytes, expected at most {_TEXT}")
                if size > end - at - 8:
                    raise self._cut()
                strings.append(data[at + 8 : at + 8 + size].decode())
                at += 8 + size
        except UnicodeDecodeError as error:
            raise ValueError(f"it has a text that is not UTF-8: {error.reason}") from None
        if "\0" in "".join(strings):  # llama.cpp ends a text at a NUL, so two tokens could become equal
            raise ValueError("it has a text with a NUL")
        self.at = at
        return strings

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._texts(1)[0]
        if kind != _ARRAY:
            raise ValueError(f"it has a value of type {kind}, expected 0 to 12")
        item = self._number("<I")
        count = self._count("items in an array", _ITEMS)
        if item == _STRING:
            return self._texts(count)
        if item not in _SCALARS:
            raise ValueError(f"it has an array of type {item}, expected numbers or texts")
        format = _SCALARS[item]
        array: npt.NDArray[Any] = np.frombuffer(self._take(count * struct.calcsize(format)), np.dtype(format))
        return array


def _check_tensors(header: Header, end: int, size: int) -> None:
    """Check that the tensors lie within the file one after another, as llama.cpp requires."""
    alignment = header.metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment not in (1 << n for n in range(5, 17)):
        raise ValueError(f"general.alignment is {alignment!r:.60}, expected a power of two from 32 to 65536")
    start, expected = -(-end // alignment) * alignment, 0
    for name, tensor in header.tensors.items():
        kinds = BLOCKS if len(tensor.shape) > 1 else (0,)  # llama.cpp computes with vectors of f32 alone
        if tensor.type not in kinds:
            raise ValueError(f"{name} has the type {tensor.type}, expected one of {sorted(kinds)}")
        block, width = BLOCKS[tensor.type]
        if any(not 0 < side < 1 << 32 for side in tensor.shape) or tensor.shape[0] % block:
            raise ValueError(
                f"{name} has the shape {tensor.shape}, expected positive sides, of whole blocks of {block}"
            )
        if tensor.offset != expected:
            raise ValueError(f"{name} begins at {tensor.offset} of the data, expected {expected}")
        ended = expected + math.prod(tensor.shape) // block * width
        if start + ended > size:
            raise ValueError(f"{name} ends at byte {start + ended} of a file of {size}; download or copy it again")
        expected = -(-ended // alignment) * alignment
