"""The operations of a decoder, each done twice: in numpy on the baked prefix, and as ONNX nodes for the rest.

Weights stream by a chunk at a time; each chunk multiplies the prefix's activations and is then quantized and
written, so that a conversion reads every weight once and never holds a whole model.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from guardpass.errors import CheckpointError
from guardpass.manifest import Prefix
from guardpass.tree import ancestors

from .architecture import Activation, Architecture
from .checkpoint import Array, Checkpoint, Tensor
from .graph import CONTRIB, Graph
from .quantize import Recipe

Progress = Callable[[int], None]
Rotation = tuple[str, str]  # names of cos and sin, [1, T, head_dim / 2]


@dataclass(frozen=True)
class Value:
    """An activation: its name in the graph, and its values [P, width] on the prefix."""

    name: str
    baked: Array


class Ops:
    """Operations on the tensors of one checkpoint, written into one graph at one precision."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        shape: Architecture,
        graph: Graph,
        recipe: Recipe,
        prefix: Prefix,
        progress: Progress,
    ) -> None:
        self._checkpoint, self._shape, self._graph, self._recipe = checkpoint, shape, graph, recipe
        self._progress = progress
        self._sees = ancestors(prefix.parents) if prefix.tokens else np.zeros((0, 0), np.bool_)
        depth = self._sees.sum(axis=1) - 1
        angles = depth[:, None].astype(np.float32) * shape.inv_freq
        self._cos, self._sin = np.cos(angles), np.sin(angles)
        self._prefix, self._depth = prefix, depth
        self._window_masks: dict[int, str] = {}

    def embed(self) -> Value:
        table = self._tensor("model.embed_tokens.weight")
        stored = _embedding_dtype(table, self._recipe)
        self._graph.begin_weight("embedding", stored, table.shape)
        for start, count in table.chunks():
            # Rows as stored where the dtype stays, so that the copy is exact; checked for NaN all the same.
            raw = table.raw(start, count)
            data = table.widened(raw)
            self._graph.append(raw if stored == table.dtype else _narrow(data, stored, table.name))
            self._progress(data.size)
        looked_up = self._graph.op("Gather", ["embedding", "tokens"], "embed.rows")[0]
        name = self._graph.op("Cast", [looked_up], "embed", to=TensorProto.FLOAT)[0]
        empty = np.zeros((0, self._shape.hidden), np.float32)
        x = Value(name, table.pick(self._prefix.tokens) if self._prefix.tokens else empty)
        if not self._shape.kind.scaled_embedding:
            return x
        scale = np.float32(math.sqrt(self._shape.hidden))
        scaled = self._graph.op("Mul", [x.name, self._graph.constant(np.array(scale))], "embed.scaled")[0]
        return Value(scaled, x.baked * scale)

    def mask(self, window: int | None) -> str:
        """The mask of a layer: what the pass says, within the sliding window by position where there is one."""
        if window is None or window >= self._shape.context:
            return "mask"
        if window not in self._window_masks:
            op, constant = self._graph.op, self._graph.constant
            columns = "positions"
            if self._prefix.tokens:
                baked = constant(self._depth[None].astype(np.int64))
                columns = op("Concat", [baked, "positions"], "window.columns", axis=1)[0]
            rows = op("Unsqueeze", ["positions", constant(np.array([2]))], "window.rows")[0]
            columns = op("Unsqueeze", [columns, constant(np.array([1]))], "window.columns")[0]
            distance = op("Sub", [rows, columns], "window.distance")[0]
            near = op("Less", [distance, constant(np.array(window))], "window.near")[0]
            near = op("Unsqueeze", [near, constant(np.array([1]))], "window.near")[0]
            self._window_masks[window] = op("And", ["mask", near], "window.mask")[0]
        return self._window_masks[window]

    def rotation(self, positions: str) -> Rotation:
        """cos and sin of every position's angles, computed in the graph: any context length, nothing stored."""
        name = f"{positions}.rotation"
        inv_freq = self._graph.constant(self._shape.inv_freq)
        column = self._graph.op("Unsqueeze", [positions, self._graph.constant(np.array([2]))], f"{name}.column")[0]
        angles = self._graph.op("Cast", [column], f"{name}.float", to=TensorProto.FLOAT)[0]
        angles = self._graph.op("Mul", [angles, inv_freq], f"{name}.angles")[0]
        return self._graph.op("Cos", [angles], f"{name}.cos")[0], self._graph.op("Sin", [angles], f"{name}.sin")[0]

    def rope(self, x: Value, heads: int, rotation: Rotation) -> Value:
        name = self._graph.op("RotaryEmbedding", [x.name, *rotation], f"{x.name}.rope", num_heads=heads)[0]
        split = x.baked.reshape(len(x.baked), heads, 2, self._shape.head_dim // 2)
        # Either all rows of the prefix, or in the last layer its last one.
        cos, sin = self._cos[-len(split) :, None], self._sin[-len(split) :, None]
        first, second = split[:, :, 0], split[:, :, 1]
        turned = np.stack([first * cos - second * sin, second * cos + first * sin], axis=2)
        return Value(name, turned.reshape(x.baked.shape))

    def attention(self, q: Value, k: Value, v: Value, mask: str, window: int | None, name: str) -> Value:
        shape = self._shape
        keys, values = (_heads(x.baked, shape.kv_heads) for x in (k, v))
        _check_finite(keys, values)
        baked = (("k", keys), ("v", values)) if self._prefix.tokens else ()
        past = [self._graph.weight(f"{name}.{kind}_prefix", x[None]) for kind, x in baked]
        # The operator insists that present keys and values are declared where past ones are given.
        output, *_ = self._graph.op(
            "Attention", [q.name, k.name, v.name, mask, *past], f"{name}.attention", outputs=3,
            q_num_heads=shape.heads, kv_num_heads=shape.kv_heads, scale=shape.scale, softcap=shape.softcap or 0.0,
        )  # fmt: skip
        queries = _heads(q.baked, shape.heads)
        group = shape.heads // shape.kv_heads
        scores = queries @ np.repeat(keys, group, axis=0).transpose(0, 2, 1) * np.float32(shape.scale)
        if shape.softcap:
            scores = np.tanh(scores / np.float32(shape.softcap)) * np.float32(shape.softcap)
        near = self._depth[:, None] - self._depth < (window or math.inf)
        scores = np.where((self._sees & near)[-len(q.baked) :], scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=-1e30))
        mixed = weights / weights.sum(axis=-1, keepdims=True) @ np.repeat(values, group, axis=0)
        return Value(output, mixed.transpose(1, 0, 2).reshape(len(q.baked), shape.heads * shape.head_dim))

    def norm(self, x: Value, name: str) -> Value:
        weight = self._tensor(f"{name}.weight").read() + np.float32(self._shape.kind.norm_offset)
        inputs = [x.name, self._graph.weight(f"{name}.weight", weight)]
        output = self._graph.op("RMSNormalization", inputs, name, axis=-1, epsilon=self._shape.eps)[0]
        mean = np.mean(x.baked**2, axis=-1, keepdims=True)
        return Value(output, (x.baked / np.sqrt(mean + np.float32(self._shape.eps)) * weight).astype(np.float32))

    def head_norm(self, x: Value, heads: int, name: str) -> Value:
        """RMSNorm of every head by itself, where the architecture has one."""
        if not self._shape.kind.head_norms:
            return x
        split = self._graph.constant(np.array([0, 0, heads, self._shape.head_dim]))
        apart = self._graph.op("Reshape", [x.name, split], f"{name}.split")[0]
        normed = self.norm(Value(apart, x.baked.reshape(len(x.baked), heads, self._shape.head_dim)), name)
        joined = self._graph.op("Reshape", [normed.name, self._graph.constant(np.array([0, 0, -1]))], f"{name}.join")[0]
        return Value(joined, normed.baked.reshape(x.baked.shape))

    def gated(self, gate: Value, up: Value, name: str) -> Value:
        kind, attributes, compute = _ACTIVATIONS[self._shape.kind.activation]
        activated = self._graph.op(kind, [gate.name], f"{name}.activation", domain=CONTRIB, **attributes)[0]
        output = self._graph.op("Mul", [activated, up.name], f"{name}.gated")[0]
        return Value(output, compute(gate.baked) * up.baked)

    def add(self, x: Value, y: Value) -> Value:
        return Value(self._graph.op("Add", [x.name, y.name], f"{y.name}.residual")[0], x.baked + y.baked)

    def slots(self, mask: str) -> tuple[str, str, Rotation]:
        """Rows of the slots, and the mask and rotation of those rows."""
        index = self._graph.op("Squeeze", ["slots", self._graph.constant(np.array([0]))], "slots.index")[0]
        positions = self._graph.op("Gather", ["positions", index], "positions.slots", axis=1)[0]
        masked = self._graph.op("Gather", [mask, index], "mask.slots", axis=2)[0]
        return index, masked, self.rotation(positions)

    def head(self, x: Value, rows: Sequence[int]) -> None:
        """Scores of the vocabulary's `rows`, softcapped where the architecture says so."""
        verdicts = self._tensor(self._shape.head).pick(rows).T
        _check_finite(x.baked @ verdicts)
        weight = self._graph.weight("verdict_head", verdicts)
        if self._shape.final_softcap is None:
            self._graph.op("MatMul", [x.name, weight], "scores")
            return
        cap = self._graph.constant(np.array(self._shape.final_softcap, np.float32))
        raw = self._graph.op("MatMul", [x.name, weight], "scores.raw")
        squashed = self._graph.op("Tanh", self._graph.op("Div", [*raw, cap], "scores.scaled"), "scores.tanh")
        self._graph.op("Mul", [*squashed, cap], "scores")

    def rows(self, x: Value, index: str) -> Value:
        # On the prefix its last token stands in for the slots, so that `head` can tell an overflow at export.
        return Value(self._graph.op("Gather", [x.name, index], f"{x.name}.slots", axis=1)[0], x.baked[-1:])

    def linear(self, x: Value, name: str) -> Value:
        tensor = self._tensor(f"{name}.weight")
        n, k = tensor.shape
        # Filled transposed: for a few rows of x, BLAS is twice as fast with the weights as the left factor.
        baked, columns = np.empty((n, len(x.baked)), np.float32), np.ascontiguousarray(x.baked.T)

        def chunks() -> Iterator[Array]:
            start = 0
            for chunk in _ahead(tensor):
                np.matmul(chunk, columns, out=baked[start : start + len(chunk)])
                start += len(chunk)
                self._progress(chunk.size)
                yield chunk

        output = self._recipe.linear(self._graph, x.name, name, chunks(), n, k)
        return Value(output, np.ascontiguousarray(baked.T))

    def _tensor(self, name: str) -> Tensor:
        return self._checkpoint.tensors[name]


def _silu(x: Array) -> Array:
    with np.errstate(over="ignore"):  # exp of a large negative gate: silu is 0 there, as it should be
        gated: Array = x / (1 + np.exp(-x))
    return gated


def _gelu_tanh(x: Array) -> Array:
    """Hendrycks & Gimpel, arXiv 1606.08415, the approximation."""
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)
    half: Array = np.float32(0.5) * x * (1 + np.tanh(inner))
    return half


# By name: the operator that computes it in one step, its attributes, and the same in numpy. ONNX's Swish is silu
# too, and ONNX Runtime 1.31 runs it as two operators.
_ACTIVATIONS: dict[Activation, tuple[str, dict[str, Any], Callable[[Array], Array]]] = {
    "silu": ("QuickGelu", {"alpha": 1.0}, _silu),
    "gelu_tanh": ("FastGelu", {}, _gelu_tanh),
}


def _ahead(tensor: Tensor) -> Iterator[Array]:
    """The tensor's row chunks, the next one read and widened while the last is being quantized."""
    with ThreadPoolExecutor(1) as reader:
        waiting = None
        for start, count in tensor.chunks():
            following = reader.submit(tensor.rows, start, count)
            if waiting:
                yield waiting.result()
            waiting = following
        if waiting:
            yield waiting.result()


def _heads(x: Array, heads: int) -> Array:
    """[P, heads x dim] to [heads, P, dim]."""
    return x.reshape(len(x), heads, x.shape[1] // heads).transpose(1, 0, 2)


def _embedding_dtype(table: Tensor, recipe: Recipe) -> np.dtype[Any]:
    """Two bytes a weight; only a float32 checkpoint exported as the float32 reference keeps four."""
    if table.dtype.itemsize == 2 or recipe.name == "fp32":
        return table.dtype
    return np.dtype(np.float16)


def _check_finite(*values: Array) -> None:
    if not all(np.isfinite(each).all() for each in values):
        raise CheckpointError(
            "the weights overflow float32 on the guard's own prompt, so no score could be trusted; "
            "check the checkpoint, its files may be damaged"
        )


def _narrow(data: Array, dtype: np.dtype[Any], name: str) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):
        narrow = data.astype(dtype)
    if not np.isfinite(narrow).all():
        raise CheckpointError(f"{name} holds values beyond {dtype}; export with --quant fp32")
    return narrow
