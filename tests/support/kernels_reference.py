"""What guardpass_kernels computes, written plainly in numpy: the packed layout, each kernel, and a whole pass.

Nothing here is shared with the native code or with the exporter; a guard's file is made by hand from random weights.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Packed = dict[str, npt.NDArray[Any]]
PANEL = 64


def aligned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A copy that begins at a multiple of 64 bytes, as a file's tensors do."""
    raw = np.empty(array.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    copy: npt.NDArray[Any] = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def padded(x: npt.NDArray[Any], rows: int, columns: int) -> npt.NDArray[Any]:
    """x with zeros below and to the right, up to multiples."""
    return np.pad(x, ((0, -len(x) % rows), (0, -x.shape[1] % columns)))


def interleaved(gate: npt.NDArray[Any], up: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Rows in panels of 32 gates and then their 32 ups."""
    pairs = [np.pad(x, [(0, -len(x) % 32)] + [(0, 0)] * (x.ndim - 1)) for x in (gate, up)]
    return np.stack([x.reshape(-1, 32, *x.shape[1:]) for x in pairs], 1).reshape(-1, *gate.shape[1:])


@dataclass(frozen=True)
class Layer:
    """A linear layer's int8 weights [N, K] and column scales [N]; group [N, K / 32] where stored in 4 bits."""

    weight: npt.NDArray[np.int8]
    scale: F32
    group: npt.NDArray[np.uint8] | None = None

    @classmethod
    def random(cls, rng: np.random.Generator, n: int, k: int, int4: bool, size: float = 1.0) -> "Layer":
        scale = (size * rng.uniform(0.5, 1.5, n) / math.sqrt(k) / 60).astype(np.float32)
        if not int4:
            return cls(rng.integers(-127, 128, (n, k)).astype(np.int8), scale)
        group = rng.integers(1, 17, (n, -(-k // 32))).astype(np.uint8)
        levels = rng.integers(-8, 8, (n, k))
        return cls((levels * np.repeat(group, 32, 1)[:, :k]).astype(np.int8), scale, group)

    @property
    def real(self) -> F32:
        return self.weight.astype(np.float32) * self.scale[:, None]

    def packed(self, up: "Layer | None" = None) -> Packed:
        """The layer as the file has it; with `up`, the two interleaved."""

        def rows(of: npt.NDArray[Any], other: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
            return of if other is None else interleaved(of, other)

        weight, scale = rows(self.weight, up and up.weight), rows(self.scale, up and up.scale)
        weight = padded(weight, PANEL, 32 if self.group is not None else 4)
        n, k = weight.shape
        result: Packed = {
            "scale": np.pad(scale, (0, n - len(scale))).astype(np.float32),
            "sum": weight.astype(np.int32).sum(1, dtype=np.int32),
        }
        if self.group is None:
            result["weight"] = weight.reshape(-1, PANEL, k // 4, 4).transpose(0, 2, 1, 3)
        else:
            group = rows(self.group, up and up.group)
            group = np.maximum(np.pad(group, ((0, n - len(group)), (0, 0))), 1)
            levels = weight.astype(np.int32) // np.repeat(group.astype(np.int32), 32, 1) + 8
            apart = levels.reshape(-1, PANEL, k // 32, 4, 2, 4).transpose(0, 2, 3, 4, 1, 5)  # panel g h half n b
            result["weight"] = (apart[:, :, :, 0] | apart[:, :, :, 1] << 4).astype(np.uint8)
            result["group"] = group.reshape(-1, PANEL, k // 32).transpose(0, 2, 1)
        return {name: aligned(np.ascontiguousarray(value)) for name, value in result.items()}


def fwht(x: F32, signs: F32) -> F32:
    """Without the factor 1 / sqrt(block); additions in the order of the kernels, so that float32 agrees bit by bit."""
    y = x.reshape(-1, len(signs)) * signs
    h = 1
    while h < len(signs):
        pairs = y.reshape(len(y), -1, 2, h)
        y = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], 2).reshape(len(y), -1)
        h *= 2
    return y.reshape(x.shape)


def norm(x: F32, eps: float) -> F32:
    mean = np.mean(np.square(x.astype(np.float64)), -1, keepdims=True)
    result: F32 = (x / np.sqrt(mean + eps)).astype(np.float32)
    return result


def quantize(x: F32, signs: F32, normed: bool, eps: float) -> tuple[npt.NDArray[np.int32], F32]:
    """Levels -127..127 [M, K] and scales [M]."""
    factor = 1 / np.sqrt(np.mean(np.square(x.astype(np.float64)), 1) + eps) if normed else np.ones(len(x))
    y = fwht(x, signs) if len(signs) > 1 else x
    most = np.abs(y).max(1)
    levels = np.rint(y * (np.float32(127) / np.maximum(most, np.float32(1e-30)))[:, None]).astype(np.int32)
    return np.where(most[:, None] < 1e-30, 0, levels), (most / 127 * factor / math.sqrt(len(signs))).astype(np.float32)


def linear(x: F32, layer: Layer, signs: F32 | None = None, eps: float | None = None) -> F32:
    """x quantized by rows, after norm and rotation where given, times the layer; integer products are exact."""
    signs = np.ones(1, np.float32) if signs is None else signs
    levels, scale = quantize(x, signs, eps is not None, eps or 0.0)
    products = levels.astype(np.int64) @ layer.weight.astype(np.int64).T
    return products.astype(np.float32) * scale[:, None] * layer.scale


def silu(x: F32) -> F32:
    wide = x.astype(np.float64)
    result: F32 = (wide / (1 + np.exp(np.minimum(-wide, 700)))).astype(np.float32)
    return result


def gelu_tanh(x: F32) -> F32:
    wide = x.astype(np.float64)
    result: F32 = (0.5 * wide * (1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))).astype(np.float32)
    return result


def rope(x: F32, angles: F32) -> F32:
    """x [T, heads, head_dim], angles [T, head_dim / 2]."""
    first, second = np.split(x, 2, -1)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def attend(q: F32, k: F32, v: F32, sees: npt.NDArray[np.bool_], scale: float, softcap: float) -> F32:
    """One head: q [R, D], k and v [K, D], sees [R, K]; in float64."""
    scores = q.astype(np.float64) @ k.T * scale
    if softcap:
        scores = np.tanh(scores / softcap) * softcap
    scores = np.where(sees, scores, -np.inf)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    result: F32 = (weights / weights.sum(1, keepdims=True) @ v).astype(np.float32)
    return result


@dataclass(frozen=True)
class Pass:
    tokens: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    slots: npt.NDArray[np.int64]
    chain: npt.NDArray[np.int32]
    sees: npt.NDArray[np.bool_]

    @property
    def arguments(self) -> tuple[npt.NDArray[Any], ...]:
        return self.tokens, self.positions, self.slots, self.chain, self.sees


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"window": "all"},
    "qwen3": {"head_norms": True},
    "gemma2": {
        "post_norms": True,
        "activation": "gelu_tanh",
        "softcap": 5.0,
        "final_softcap": 3.0,
        "window": "even",
        "embed_scale": 4.0,
    },
}


@dataclass
class Model:
    """A random decoder: what the native Model is given, and the same computed plainly."""

    config: dict[str, Any]
    tensors: Packed
    layers: list[dict[str, Layer]] = field(default_factory=list)

    @classmethod
    def random(cls, kind: str, seed: int = 0, quant: str = "int8", table: type = np.float16, **sizes: int) -> "Model":
        rng = np.random.default_rng(seed)
        traits = dict(ARCHITECTURES[kind])
        window = traits.pop("window", None)
        config: dict[str, Any] = (
            {
                "layers": 3,
                "hidden": 96,
                "heads": 4,
                "kv_heads": 2,
                "head_dim": 24,
                "ffn": 160,
                "vocab": 50,
                "columns": 5,
                "prefix": 9,
                "context": 4096,
                "eps": 1e-5,
                "scale": 0.2,
                "softcap": 0.0,
                "final_softcap": 0.0,
                "activation": "silu",
                "post_norms": False,
                "head_norms": False,
                "embed_scale": 1.0,
                "quant": quant,
            }
            | traits
            | sizes
        )
        config["windows"] = [
            (6 if window == "all" or (window == "even" and i % 2 == 0) else 0) for i in range(config["layers"])
        ]
        for place, width in (("residual", "hidden"), ("ffn", "ffn"), ("heads", "head_dim")):
            config.setdefault(f"{place}_block", min(config[width] & -config[width], 64))
        model = cls(config, {})
        model._fill(rng, table)
        return model

    def _fill(self, rng: np.random.Generator, table: type) -> None:
        c, t = self.config, self.tensors
        hidden, dim, prefix = c["hidden"], c["head_dim"], c["prefix"]

        def normal(*shape: int) -> F32:
            return rng.normal(size=shape).astype(np.float32)

        t["embedding"] = normal(c["vocab"], hidden).astype(table)
        t["inv_freq"] = (10000.0 ** (-np.arange(dim // 2) * 2 / dim)).astype(np.float32)
        t["verdict_head"] = normal(c["columns"], hidden) / math.sqrt(hidden)
        for place in ("residual", "ffn"):
            t[f"signs.{place}"] = rng.choice([-1.0, 1.0], c[f"{place}_block"]).astype(np.float32)
        if prefix:
            t["prefix.positions"] = np.arange(prefix, dtype=np.int32)
        q, kv, int4 = c["heads"] * dim, c["kv_heads"] * dim, c["quant"] == "int4"
        for i in range(c["layers"]):
            name = f"model.layers.{i}"
            shapes = {
                "q_proj": (q, hidden),
                "k_proj": (kv, hidden),
                "v_proj": (kv, hidden),
                "o_proj": (hidden, q),
                "gate_proj": (c["ffn"], hidden),
                "up_proj": (c["ffn"], hidden),
                "down_proj": (hidden, c["ffn"]),
            }
            layer = {key: Layer.random(rng, n, k, int4) for key, (n, k) in shapes.items()}
            self.layers.append(layer)
            for key in ("q_proj", "k_proj", "v_proj", "o_proj"):
                t |= {f"{name}.self_attn.{key}.{part}": value for part, value in layer[key].packed().items()}
            gate_up = layer["gate_proj"].packed(layer["up_proj"])
            t |= {f"{name}.mlp.gate_up.{part}": value for part, value in gate_up.items()}
            t |= {f"{name}.mlp.down_proj.{part}": value for part, value in layer["down_proj"].packed().items()}
            if prefix:
                for part in ("k_prefix", "v_prefix"):
                    t[f"{name}.self_attn.{part}"] = normal(c["kv_heads"], prefix, dim)
            if c["head_norms"]:
                for part in ("q_norm", "k_norm"):
                    t[f"{name}.self_attn.{part}.weight"] = 1 + normal(dim) / 4
            if c["post_norms"]:
                for part in ("post_attention_layernorm", "post_feedforward_layernorm"):
                    t[f"{name}.{part}.weight"] = 1 + normal(hidden) / 4
        for key, value in t.items():
            t[key] = aligned(np.ascontiguousarray(value))

    def request(self, rng: np.random.Generator, span: int, tree: int, slots: int) -> Pass:
        """A random pass: a span, a random tree, random slots, and a random chain of baked columns."""
        c, count = self.config, span + tree
        chain = np.flatnonzero(rng.random(c["prefix"]) < 0.8).astype(np.int32)
        sees = np.eye(tree, dtype=np.bool_)
        depth = np.zeros(tree, np.int64)
        for node in range(1, tree):
            parent = int(rng.integers(-1, node))
            if parent >= 0:
                sees[node] |= sees[parent]
                depth[node] = depth[parent] + 1
        positions = np.concatenate([np.arange(span), span + depth]) + len(chain)
        return Pass(
            rng.integers(0, c["vocab"], count),
            positions,
            rng.choice(count, slots, replace=slots > count),
            chain,
            sees,
        )

    def run(self, request: Pass) -> F32:
        """Scores [S, V'], plainly: every layer for every row."""
        c, t = self.config, self.tensors
        count, tree, prefix = len(request.tokens), len(request.sees), c["prefix"]
        span = count - tree
        mask = np.zeros((count, prefix + count), np.bool_)
        mask[:, request.chain] = True
        mask[:, prefix : prefix + span] = np.tri(count, span, dtype=np.bool_)
        mask[span:, prefix + span :] = request.sees
        keys_at = np.concatenate([t.get("prefix.positions", np.zeros(0, np.int32)), request.positions])
        distance = request.positions[:, None] - keys_at
        angles = request.positions[:, None].astype(np.float32) * t["inv_freq"]

        x = t["embedding"][request.tokens].astype(np.float32) * np.float32(c["embed_scale"])
        residual, post = t["signs.residual"], c["post_norms"]
        if not post:
            x = self._rotated(x, residual)
        turn = residual if post else None
        for i, layer in enumerate(self.layers):
            name = f"model.layers.{i}"
            window = c["windows"][i]
            sees = mask & (distance < window) if window else mask
            q, k, v = (
                linear(x, layer[f"{each}_proj"], turn, c["eps"]).reshape(count, -1, c["head_dim"]) for each in "qkv"
            )
            if c["head_norms"]:
                q = norm(q, c["eps"]) * t[f"{name}.self_attn.q_norm.weight"]
                k = norm(k, c["eps"]) * t[f"{name}.self_attn.k_norm.weight"]
            q, k = rope(q, angles), rope(k, angles)
            mixed = np.empty_like(q)
            for head in range(c["heads"]):
                shared = head // (c["heads"] // c["kv_heads"])
                every_k, every_v = k[:, shared], v[:, shared]
                if prefix:
                    every_k = np.concatenate([t[f"{name}.self_attn.k_prefix"][shared], every_k])
                    every_v = np.concatenate([t[f"{name}.self_attn.v_prefix"][shared], every_v])
                mixed[:, head] = attend(q[:, head], every_k, every_v, sees, c["scale"], c["softcap"])
            y = linear(mixed.reshape(count, -1), layer["o_proj"])
            x = x + (norm(y, c["eps"]) * t[f"{name}.post_attention_layernorm.weight"] if post else y)
            gate, up = (linear(x, layer[f"{each}_proj"], turn, c["eps"]) for each in ("gate", "up"))
            gated = (gelu_tanh if c["activation"] == "gelu_tanh" else silu)(gate) * up
            y = linear(gated, layer["down_proj"], t["signs.ffn"])
            x = x + (norm(y, c["eps"]) * t[f"{name}.post_feedforward_layernorm.weight"] if post else y)
        scores = norm(x[request.slots], c["eps"]) @ t["verdict_head"].T
        if c["final_softcap"]:
            scores = np.tanh(scores / c["final_softcap"]) * np.float32(c["final_softcap"])
        result: F32 = scores.astype(np.float32)
        return result

    @staticmethod
    def _rotated(x: F32, signs: F32) -> F32:
        return fwht(x, signs) / np.float32(math.sqrt(len(signs))) if len(signs) > 1 else x
