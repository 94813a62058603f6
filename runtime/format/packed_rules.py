"""Rules for model.packed: exactly the tensors that its config implies, and values equal to guard.json's."""

from collections.abc import Mapping

import numpy as np

from .manifest import Manifest
from .packed import Arrays, Dtype, Entry, Header
from .packed_config import Config
from .tree import depths

PANEL = 64  # weight rows of a panel
GROUP = 32  # weight columns that share a group scale
Shapes = dict[str, tuple[Dtype, tuple[int, ...]]]

_LINEARS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_up",
    "mlp.down_proj",
)


def check(header: Header, arrays: Arrays, manifest: Manifest) -> Config:
    """Check the file against its config and guard.json; returns the config. Raises ValueError."""
    config = Config.of(header.metadata)
    for name, actual, expected in (
        ("vocab", config.vocab, manifest.vocab),
        ("context", config.context, manifest.context),
        ("columns", config.columns, len(manifest.columns)),
        ("prefix", config.prefix, len(manifest.prefix.tokens)),
        ("quant", config.quant, manifest.engine.quant),
    ):
        if actual != expected:
            raise ValueError(f"{name} is {actual!r}, and guard.json has {expected!r}")
    _tensors(config, header.entries)
    if config.prefix and not np.array_equal(arrays["prefix.positions"], depths(manifest.prefix.parents)):
        raise ValueError("prefix.positions are not those of guard.json's prefix")
    return config


def _tensors(config: Config, entries: Mapping[str, Entry]) -> None:
    if config.layers * len(_LINEARS) > len(entries):  # checked first, as the count may be huge
        raise ValueError(f"{len(entries)} tensors, expected those of {config.layers} layers")
    expected = shapes(config)
    actual = {name: (entry.dtype, entry.shape) for name, entry in entries.items()}
    dtype, shape = actual.pop("embedding", (None, ()))
    if dtype not in ("F16", "BF16", "F32") or shape != (config.vocab, config.hidden):
        raise ValueError(f"embedding is {dtype} {list(shape)}, expected floats [{config.vocab}, {config.hidden}]")
    if missing := expected.keys() - actual.keys():
        raise ValueError(f"{len(missing)} tensors are missing: {', '.join(sorted(missing)[:3])}")
    if more := actual.keys() - expected.keys():
        raise ValueError(f"{len(more)} tensors are not known: {', '.join(sorted(more)[:3])}")
    for name, (dtype, shape) in expected.items():
        if actual[name] != (dtype, shape):
            raise ValueError(f"{name} is {actual[name][0]} {list(actual[name][1])}, expected {dtype} {list(shape)}")


def shapes(config: Config) -> Shapes:
    """The dtype and shape of every tensor but the embedding, which keeps the checkpoint's dtype."""
    table: Shapes = {
        "inv_freq": ("F32", (config.head_dim // 2,)),
        "signs.residual": ("F32", (config.residual_block,)),
        "signs.ffn": ("F32", (config.ffn_block,)),
        "verdict_head": ("F32", (config.columns, config.hidden)),
    }
    if config.prefix:
        table["prefix.positions"] = "I32", (config.prefix,)
    for layer in range(config.layers):
        table |= {f"model.layers.{layer}.{name}": tensor for name, tensor in _layer(config).items()}
    return table


def _layer(config: Config) -> Shapes:
    hidden, q, kv = config.hidden, config.heads * config.head_dim, config.kv_heads * config.head_dim
    gate_up = 2 * (config.ffn + -config.ffn % (PANEL // 2))  # gate and up rows alternate by half panels
    sizes = ((q, hidden), (kv, hidden), (kv, hidden), (hidden, q), (gate_up, hidden), (hidden, config.ffn))
    table: Shapes = {}
    for name, (n, k) in zip(_LINEARS, sizes, strict=True):
        table |= {f"{name}.{part}": tensor for part, tensor in _linear(config, n, k).items()}
    if config.prefix:
        for kind in "kv":
            table[f"self_attn.{kind}_prefix"] = "F32", (config.kv_heads, config.prefix, config.head_dim)
    if config.head_norms:
        table |= {f"self_attn.{kind}_norm.weight": ("F32", (config.head_dim,)) for kind in "qk"}
    if config.post_norms:
        table |= {f"post_{kind}_layernorm.weight": ("F32", (hidden,)) for kind in ("attention", "feedforward")}
    return table


def _linear(config: Config, n: int, k: int) -> Shapes:
    panels, groups = -(-n // PANEL), -(-k // GROUP)
    table: Shapes = {"scale": ("F32", (panels * PANEL,)), "sum": ("I32", (panels * PANEL,))}
    if config.quant == "int8":
        return table | {"weight": ("I8", (panels, -(-k // 4), PANEL, 4))}
    return table | {"weight": ("U8", (panels, groups, 4, PANEL, 4)), "group": ("U8", (panels, groups, PANEL))}
