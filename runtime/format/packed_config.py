"""A decoder's sizes and constants as model.packed's header has them and as the kernels take them."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .codec import decode, encode

FORMAT = {"format": "guardpass-packed", "version": "1"}
_WORDS = ("activation", "quant")  # what is text in the header; all else is JSON
_SIZES = ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab", "columns", "context", "residual_block",
          "heads_block", "ffn_block")  # fmt: skip
_MOST = 1 << 24
_SHARE = 64  # heads to a key, as many rows as a task of the kernels' attention takes


@dataclass(frozen=True)
class Config:
    """What sets one decoder apart from another."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    columns: int  # token ids that are scored
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
    windows: tuple[int, ...]  # by layer, positions back that a token sees, itself included; 0: all
    quant: Literal["int8", "int4"]
    residual_block: int  # channels that a rotation mixes; 1: none
    heads_block: int  # folded into the weights
    ffn_block: int

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> "Config":
        """The config of a header. Raises ValueError naming what was found and what expected."""
        found = {key: metadata.get(key) for key in FORMAT}
        if found != FORMAT:
            raise ValueError(f"the header says {found}, expected {FORMAT}")
        values: dict[str, Any] = {}
        for key in metadata.keys() - FORMAT.keys():
            text = metadata[key]
            values[key] = text if key in _WORDS else json.loads(text, parse_constant=_no_number)
        config = decode(cls, values, "__metadata__")
        _check(config)
        return config

    def metadata(self) -> dict[str, str]:
        """As the header has it."""
        values = encode(self)
        return FORMAT | {key: value if key in _WORDS else json.dumps(value) for key, value in values.items()}


def _check(config: Config) -> None:
    """Sizes and constants in range, and such as divide where they have to."""
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
