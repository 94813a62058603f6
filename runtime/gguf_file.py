"""A GGUF file's header, read with bounds on everything: what has to hold before llama.cpp opens the file.

The format: docs/gguf.md of the ggml repository. llama.cpp ends the process (GGML_ASSERT) on some headers that
contradict themselves; whatever is not proved here is refused.
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
ARCHITECTURES = ("llama", "gemma2", "qwen3")
TOKENIZERS = ("gpt2", "llama")  # byte-level BPE, SentencePiece

_KEYS, _TENSORS, _ITEMS = 1 << 12, 1 << 14, 1 << 22
_TEXT = 1 << 20  # bytes of a string; the longest are chat templates
_KEY = re.compile(rb"[A-Za-z0-9_.:-]{1,255}")


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
    _check_sizes(header)
    _check_vocabulary(header)
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
            raise ValueError(f"it ends at byte {len(self.data)}, within its header; download or copy it again")
        self.at += size
        return self.data[self.at - size : self.at]

    def _number(self, format: str) -> Any:
        return struct.unpack(format, self._take(struct.calcsize(format)))[0]

    def _count(self, what: str, limit: int) -> int:
        count: int = self._number("<Q")
        self.items += count
        if count > limit or self.items > _ITEMS:
            raise ValueError(f"it has {count} {what}, expected at most {limit}, and {_ITEMS} in all")
        return count

    def _bytes(self) -> bytes:
        size = self._number("<Q")
        if size > _TEXT:
            raise ValueError(f"it has a text of {size} bytes, expected at most {_TEXT}")
        return self._take(size)

    def _name(self, what: str) -> str:
        name = self._bytes()
        if not _KEY.fullmatch(name):
            raise ValueError(f"it has a {what} {name[:60]!r}, expected letters, digits, dots and lines")
        return name.decode()

    def _text(self) -> str:
        try:
            return self._bytes().decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"it has a text that is not UTF-8: {error.reason}") from None

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            raise ValueError(f"it has a value of type {kind}, expected 0 to 12")
        of = self._number("<I")
        count = self._count("items in an array", _ITEMS)
        if of == _STRING:
            return [self._text() for _ in range(count)]
        if of not in _SCALARS:
            raise ValueError(f"it has an array of type {of}, expected numbers or texts")
        format = _SCALARS[of]
        found: npt.NDArray[Any] = np.frombuffer(self._take(count * struct.calcsize(format)), np.dtype(format))
        return found


def _check_tensors(header: Header, end: int, size: int) -> None:
    """Every tensor within the file, one after the other, as llama.cpp wants them."""
    alignment = header.metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment not in (1 << n for n in range(3, 17)):
        raise ValueError(f"general.alignment is {alignment!r}, expected a power of two from 8 to 65536")
    start, expected = -(-end // alignment) * alignment, 0
    for name, tensor in header.tensors.items():
        if tensor.type not in BLOCKS:
            raise ValueError(f"{name} has the type {tensor.type}, expected one of {sorted(BLOCKS)}")
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


def _check_sizes(header: Header) -> None:
    """An architecture we know, in sizes that neither divide by zero nor exceed llama.cpp's own tables."""
    name = header.metadata.get("general.architecture")
    if name not in ARCHITECTURES:
        raise ValueError(f"its architecture is {name!r:.60}, expected one of: {', '.join(ARCHITECTURES)}")
    if header.metadata.get("split.count", 0) not in (0, 1):
        raise ValueError("it is one part of several; merge them first with llama.cpp's gguf-split")
    limits = {
        "context_length": 1 << 24, "embedding_length": 1 << 20, "block_count": 511, "feed_forward_length": 1 << 22,
        "attention.head_count": 1 << 12,
    }  # fmt: skip
    optional = {
        "attention.head_count_kv": 1 << 12, "attention.key_length": 1 << 12, "attention.value_length": 1 << 12,
        "rope.dimension_count": 1 << 12, "attention.sliding_window": 1 << 24,
    }  # fmt: skip
    sizes = {key: header.metadata.get(f"{name}.{key}") for key in limits | optional}
    for key, value in sizes.items():
        if value is None and key in optional:
            continue
        if type(value) is not int or not 1 <= value <= (limits | optional)[key]:
            raise ValueError(f"{name}.{key} is {value!r:.60}, expected 1 to {(limits | optional)[key]}")
    heads, width = header.metadata[f"{name}.attention.head_count"], header.metadata[f"{name}.embedding_length"]
    groups = sizes["attention.head_count_kv"] or heads
    if heads % groups or (sizes["attention.key_length"] is None and width % heads):
        raise ValueError(f"it has {heads} heads, {groups} of keys, and an embedding of {width}: they do not divide")
    unlike = [key for key in header.metadata if key.endswith((".expert_count", ".pooling_type"))]
    if any(header.metadata[key] for key in unlike):
        raise ValueError(f"it has {', '.join(unlike)}; expected a plain decoder")


def _check_vocabulary(header: Header) -> None:
    """A tokenizer of a kind we know, complete, with as many tokens as there are embedding rows."""
    data = header.metadata
    model = data.get("tokenizer.ggml.model")
    if model not in TOKENIZERS:
        raise ValueError(f"its tokenizer is {model!r:.60}, expected one of: {', '.join(TOKENIZERS)}")
    tokens, embedding = data.get("tokenizer.ggml.tokens"), header.tensors.get("token_embd.weight")
    if not isinstance(tokens, list) or embedding is None or embedding.shape[1:] != (len(tokens),):
        raise ValueError(
            f"it has {len(tokens) if isinstance(tokens, list) else 'no'} tokens, and embeddings of the shape "
            f"{embedding and embedding.shape}; expected one row for each token"
        )
    if len(set(tokens)) != len(tokens) or "" in tokens:
        raise ValueError("two of its tokens are alike, or one is empty")
    for key, kind in (("token_type", np.int32), ("scores", np.float32)):
        values = data.get(f"tokenizer.ggml.{key}")
        if values is None and key == "scores" and model == "gpt2":
            continue
        if not isinstance(values, np.ndarray) or values.dtype != kind or len(values) != len(tokens):
            raise ValueError(f"tokenizer.ggml.{key}: expected {len(tokens)} of {np.dtype(kind)}")
        if not np.isfinite(values).all():
            raise ValueError(f"tokenizer.ggml.{key} holds values that are not finite")
    merges = data.get("tokenizer.ggml.merges", [])
    if (
        not isinstance(merges, list)
        or any(" " not in merge[1:] for merge in merges)
        or (model == "gpt2" and not merges)
    ):
        raise ValueError("tokenizer.ggml.merges: expected pairs of tokens")
    if model == "llama" and not {f"<0x{byte:02X}>" for byte in range(256)} <= set(tokens):
        raise ValueError("its SentencePiece vocabulary lacks some of the 256 byte tokens")
    for key, value in data.items():
        known = type(value) is int and value < len(tokens)
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id") and not known:
            raise ValueError(f"{key} is {value!r:.60}, expected a token id below {len(tokens)}")
