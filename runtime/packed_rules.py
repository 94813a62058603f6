"""What model.packed must hold: sizes in range, exactly the tensors that follow from them, all as guard.json has it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .manifest import Manifest
from .packed_file import Arrays, Dtype, Entry, Header
from .schema import decode, encode
from .tree import depths

FORMAT = {"format": "guardpass-packed", "version": "1"}
PANEL, GROUP = 64, 32  # rows of a panel of weights; columns that share a group scale
LINEARS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_up",
           "mlp.down_proj")  # fmt: skip
_SIZES = ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab", "columns", "context", "residual_block",
          "heads_block", "ffn_block")  # fmt: skip
_WORDS = ("activation", "quant")  # what is text in the header; all else is JSON
_MOST = 1 << 24


@dataclass(frozen=True)
class Config:
    """A decoder's sizes and constants, as the kernels take them."""

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

    def metadata(self) -> dict[str, str]:
        """As the header has it: text as it stands, all else as JSON."""
        values = encode(self)
        return FORMAT | {key: value if key in _WORDS else json.dumps(value) for key, value in values.items()}

    def shapes(self) -> dict[str, tuple[Dtype, tuple[int, ...]]]:
        """Every tensor but the embedding, which is as the checkpoint stored it."""
        table: dict[str, tuple[Dtype, tuple[int, ...]]] = {
            "inv_freq": ("F32", (self.head_dim // 2,)),
            "signs.residual": ("F32", (self.residual_block,)),
            "signs.ffn": ("F32", (self.ffn_block,)),
            "verdict_head": ("F32", (self.columns, self.hidden)),
        }
        if self.prefix:
            table["prefix.positions"] = "I32", (self.prefix,)
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        sizes = ((q, self.hidden), (kv, self.hidden), (kv, self.hidden), (self.hidden, q),
                 (2 * (self.ffn + -self.ffn % (PANEL // 2)), self.hidden), (self.hidden, self.ffn))  # fmt: skip
        for layer in range(self.layers):
            name = f"model.layers.{layer}"
            for linear, (n, k) in zip(LINEARS, sizes, strict=True):
                table |= {f"{name}.{linear}.{part}": each for part, each in self._linear(n, k).items()}
            if self.prefix:
                shape = self.kv_heads, self.prefix, self.head_dim
                table |= {f"{name}.self_attn.{kind}_prefix": ("F32", shape) for kind in "kv"}
            gains = {"self_attn.q_norm": self.head_dim, "self_attn.k_norm": self.head_dim} if self.head_norms else {}
            if self.post_norms:
                gains |= {"post_attention_layernorm": self.hidden, "post_feedforward_layernorm": self.hidden}
            table |= {f"{name}.{gain}.weight": ("F32", (size,)) for gain, size in gains.items()}
        return table

    def _linear(self, n: int, k: int) -> dict[str, tuple[Dtype, tuple[int, ...]]]:
        panels, groups = -(-n // PANEL), -(-k // GROUP)
        table: dict[str, tuple[Dtype, tuple[int, ...]]] = {
            "scale": ("F32", (panels * PANEL,)), "sum": ("I32", (panels * PANEL,))
        }  # fmt: skip
        if self.quant == "int8":
            return table | {"weight": ("I8", (panels, -(-k // 4), PANEL, 4))}
        return table | {"weight": ("U8", (panels, groups, 4, PANEL, 4)), "group": ("U8", (panels, groups, PANEL))}


def check(header: Header, arrays: Arrays, manifest: Manifest) -> Config:
    """The file's config, once all has been held against it. Raises ValueError naming what was found and expected."""
    config = _config(header.metadata)
    for name, found, expected in (
        ("vocab", config.vocab, manifest.vocab),
        ("context", config.context, manifest.context),
        ("columns", config.columns, len(manifest.columns)),
        ("prefix", config.prefix, len(manifest.prefix.tokens)),
        ("quant", config.quant, manifest.engine.quant),
    ):
        if found != expected:
            raise ValueError(f"{name} is {found!r}, and guard.json has {expected!r}")
    _tensors(config, header.entries)
    if config.prefix and not np.array_equal(arrays["prefix.positions"], depths(manifest.prefix.parents)):
        raise ValueError("prefix.positions are not those of guard.json's prefix")
    return config


def _config(metadata: Mapping[str, str]) -> Config:
    found = {key: metadata.get(key) for key in FORMAT}
    if found != FORMAT:
        raise ValueError(f"the header says {found}, expected {FORMAT}; export again")
    values: dict[str, Any] = {}
    for key, text in metadata.items():
        if key not in FORMAT:
            values[key] = text if key in _WORDS else json.loads(text, parse_constant=_no_number)
    config = decode(Config, values, "__metadata__")
    for name in _SIZES:
        if not 1 <= getattr(config, name) < _MOST:
            raise ValueError(f"{name} is {getattr(config, name)}, expected a positive count")
    if not 0 <= config.prefix < _MOST:
        raise ValueError(f"prefix is {config.prefix}, expected a count")
    if config.heads % config.kv_heads or config.head_dim % 2:
        raise ValueError(f"{config.heads} heads of {config.head_dim} share {config.kv_heads} keys, expected to divide")
    if len(config.windows) != config.layers or not all(0 <= window < _MOST for window in config.windows):
        raise ValueError(f"windows are {list(config.windows)}, expected a count for each of {config.layers} layers")
    floats = {name: getattr(config, name) for name in ("eps", "scale", "embed_scale", "softcap", "final_softcap")}
    for name, value in floats.items():
        if not (0 < value < math.inf or (value == 0 and name.endswith("softcap"))):
            raise ValueError(f"{name} is {value}, expected a positive number")
    for block, width in (("residual", config.hidden), ("heads", config.head_dim), ("ffn", config.ffn)):
        size = getattr(config, f"{block}_block")
        if size & (size - 1) or width % size:
            raise ValueError(f"{block}_block is {size}, expected a power of two that divides {width}")
    return config


def _no_number(text: str) -> float:
    raise ValueError(f"the header says {text}, expected a number")


def _tensors(config: Config, entries: Mapping[str, Entry]) -> None:
    if config.layers * len(LINEARS) > len(entries):  # before a table is made of a count that may be anything
        raise ValueError(f"{len(entries)} tensors, expected those of {config.layers} layers")
    expected = config.shapes()
    found = {name: (entry.dtype, entry.shape) for name, entry in entries.items()}
    dtype, shape = found.pop("embedding", (None, ()))
    if dtype not in ("F16", "BF16", "F32") or shape != (config.vocab, config.hidden):
        raise ValueError(f"embedding is {dtype} {list(shape)}, expected floats [{config.vocab}, {config.hidden}]")
    if missing := expected.keys() - found.keys():
        raise ValueError(f"{len(missing)} tensors are missing: {', '.join(sorted(missing)[:3])}")
    if more := found.keys() - expected.keys():
        raise ValueError(f"{len(more)} tensors are not known: {', '.join(sorted(more)[:3])}")
    for name, each in found.items():
        if each != expected[name]:
            raise ValueError(f"{name} is {each[0]} {list(each[1])}, expected {expected[name][0]} {expected[name][1]}")
