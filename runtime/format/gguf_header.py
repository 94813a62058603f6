"""A GGUF file's header, read with bounds on everything: what has to hold before llama.cpp opens the file.

The format: docs/gguf.md of the ggml repository. What the header may say is in gguf_rules.py.
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

# By GGUF's number of the type.
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
# (weights, bytes) of a block, by ggml's number of the type; those that this version's quantizer writes and its peers.
BLOCKS = {
    0: (1, 4), 1: (1, 2), 30: (1, 2),  # f32, f16, bf16
    2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 20: (32, 18),  # q4_0 q4_1 q5_0 q5_1 q8_0 iq4_nl
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 23: (256, 136),  # k-quants, iq4_xs
}  # fmt: skip

_KEYS, _TENSORS, _ITEMS = 1 << 12, 1 << 14, 1 << 22
_TEXT = 1 << 20  # bytes of a string; the longest are chat templates
_KEY = re.compile(r"[A-Za-z0-9_.:-]{1,255}")


@dataclass(frozen=True)
class Tensor:
    """One tensor's place: shape with the fastest axis first, ggml's type, bytes from the start of the data."""

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
    """Read and check. Raises ValueError, which says what was found and expected; nothing else, whatever the file."""
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
    """Reads on from `at`; past the end, or past a bound, is a ValueError."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at, self.items = data, 0, 0

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
        found: dict[str, Tensor] = {}
        for _ in range(tensors):
            name = self._name("tensor")
            if name in found or len(name) > 63:
                raise ValueError(f"the tensor {name} comes twice, or has a name of more than 63 bytes")
            dimensions = self._number("<I")
            if not 1 <= dimensions <= 4:
                raise ValueError(f"{name} has {dimensions} dimensions, expected 1 to 4")
            shape = tuple(self._number("<Q") for _ in range(dimensions))
            found[name] = Tensor(shape, self._number("<I"), self._number("<Q"))
        return Header(metadata, found)

    def _take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise self._cut()
        self.at += size
        return self.data[self.at - size : self.at]

    def _cut(self) -> ValueError:
        return ValueError(f"it ends at byte {len(self.data)}, within its header; download or copy it again")

    def _number(self, format: str) -> Any:
        return struct.unpack(format, self._take(struct.calcsize(format)))[0]

    def _count(self, what: str, limit: int) -> int:
        count: int = self._number("<Q")
        self.items += count
        if count > limit or self.items > _ITEMS:
            raise ValueError(f"it has {count} {what}, expected at most {limit}, and {_ITEMS} in all")
        return count

    def _name(self, what: str) -> str:
        (name,) = self._texts(1)
        if not _KEY.fullmatch(name):
            raise ValueError(f"it has a {what} {name[:60]!r}, expected letters, digits, dots and lines")
        return name

    def _texts(self, count: int) -> list[str]:
        """Hundreds of thousands of tokens and merges: a loop of its own."""
        data, at, end, size_at, found = self.data, self.at, len(self.data), struct.Struct("<Q").unpack_from, []
        try:
            for _ in range(count):
                if end - at < 8:
                    raise self._cut()
                (size,) = size_at(data, at)
                if size > _TEXT:
                    raise ValueError(f"it has a text of {size} bytes, expected at most {_TEXT}")
                if size > end - at - 8:
                    raise self._cut()
                found.append(data[at + 8 : at + 8 + size].decode())
                at += 8 + size
        except UnicodeDecodeError as error:
            raise ValueError(f"it has a text that is not UTF-8: {error.reason}") from None
        if "\0" in "".join(found):  # where a text ends to llama.cpp, which would make two tokens alike
            raise ValueError("it has a text with a NUL")
        self.at = at
        return found

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._texts(1)[0]
        if kind != _ARRAY:
            raise ValueError(f"it has a value of type {kind}, expected 0 to 12")
        of = self._number("<I")
        count = self._count("items in an array", _ITEMS)
        if of == _STRING:
            return self._texts(count)
        if of not in _SCALARS:
            raise ValueError(f"it has an array of type {of}, expected numbers or texts")
        format = _SCALARS[of]
        found: npt.NDArray[Any] = np.frombuffer(self._take(count * struct.calcsize(format)), np.dtype(format))
        return found


def _check_tensors(header: Header, end: int, size: int) -> None:
    """Every tensor within the file, one after the other, as llama.cpp wants them."""
    alignment = header.metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment not in (1 << n for n in range(5, 17)):
        raise ValueError(f"general.alignment is {alignment!r:.60}, expected a power of two from 32 to 65536")
    start, expected = -(-end // alignment) * alignment, 0
    for name, tensor in header.tensors.items():
        kinds = BLOCKS if len(tensor.shape) > 1 else (0,)  # llama.cpp adds and multiplies by vectors of f32 only
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
