"""The sizes and constants of a decoder, in the header of model.packed and for the kernels."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .codec import decode, encode

FORMAT = {"format": "guardpass-packed", "version": "1"}
_WORDS = ("activation", "quant")  # plain text in the header; other values are JSON
_SIZES = (
    "layers",
    "hidden",
    "heads",
    "kv_heads",
    "head_dim",
    "ffn",
    "vocab",
    "columns",
    "context",
    "residual_block",
    "heads_block",
    "ffn_block",
)
_MOST = 1 << 24
_SHARE = 64  # heads per key: the rows of one attention task of the kernels


@dataclass(frozen=True)
class Config:
    """The sizes and constants of one decoder."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    columns: int  # scored token ids
    prefix: int  # baked columns
    context: int
    eps: float
    scale: float  # of attention scores
    softcap: float  # of attention scores; 0: none
    final_softcap: float  # of the scores; 0: none
    activation: Literal["silu", "gelu_tanh"]
    post_norms: bool
    head_norms: bool
    embed_scale: float
    windows: tuple[int, ...]  # by layer, positions that a token sees, itself included; 0: all
    quant: Literal["int8", "int4"]
    residual_block: int  # channels in one rotation; 1: no rotation
    heads_block: int  # folded into the weights
    ffn_block: int

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> "Config":
        """The config of a header. Raises ValueError."""
        format = {key: metadata.get(key) for key in FORMAT}
        if format != FORMAT:
            raise ValueError(f"the header says {format}, expected {FORMAT}")
        values: dict[str, Any] = {}
        for key in metadata.keys() - FORMAT.keys():
            text = metadata[key]
            values[key] = text if key in _WORDS else json.loads(text, parse_constant=_no_number)
        config = decode(cls, values, "__metadata__")
        _check(config)
        return config

    def metadata(self) -> dict[str, str]:
        """The metadata of the header."""
        values = encode(self)
        return FORMAT | {key: value if key in _WORDS else json.dumps(value) for key, value in values.items()}


def _check(config: Config) -> None:
    """Check the range of sizes and constants, and their divisibility."""
    for name in _SIZES:
        if not 1 <= getattr(config, name) < _MOST:
            raise ValueError(f"{name} is {getattr(config, name)}, expected a positive count")
    if not 0 <= config.prefix < _MOST:
        raise ValueError(f"prefix is {config.prefix}, expected a count")
    if config.heads % config.kv_heads or config.head_dim % 2:
        raise ValueError(
            f"{config.heads} heads of {config.head_dim} share {config.kv_heads} keys, expected to divide, and be even"
        )
    if config.heads > _SHARE * config.kv_heads:
        raise ValueError(f"{config.heads} heads share {config.kv_heads} keys, expected at most {_SHARE} a key")
    if len(config.windows) != config.layers or not all(0 <= window < _MOST for window in config.windows):
        raise ValueError(f"windows are {list(config.windows)}, expected a count for each of {config.layers} layers")
    for name in ("eps", "scale", "embed_scale", "softcap", "final_softcap"):
        value = getattr(config, name)
        if not (0 < value < math.inf or (value == 0 and name.endswith("softcap"))):
            raise ValueError(f"{name} is {value}, expected a positive number")
    for place, width in (("residual", config.hidden), ("heads", config.head_dim), ("ffn", config.ffn)):
        size = getattr(config, f"{place}_block")
        if size & (size - 1) or width % size:
            raise ValueError(f"{place}_block is {size}, expected a power of two that divides {width}")


def _no_number(text: str) -> float:
    raise ValueError(f"the header says {text}, expected a number")
