"""The Llama forward, written once and run twice: on the baked prefix in numpy, on the rest as an ONNX graph.

Weights stream by a chunk at a time; each chunk multiplies the prefix's activations and is then quantized and
written, so that every weight is read once and never held as a whole model.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from guardpass.errors import CheckpointError
from guardpass.manifest import Prefix
from guardpass.passes import ancestors

from .architecture import Architecture
from .checkpoint import Array, Checkpoint, Tensor
from .graph import CONTRIB, Graph
from .quantize import Recipe

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Value:
    """An activation: its name in the graph, and its values [P, width] on the prefix."""

    name: str
    baked: Array


class Forward:
    """Writes a guard's forward into a graph."""

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
        self._prefix = prefix

    def write(self, rows: Sequence[int]) -> None:
        """The whole graph, from tokens to scores of the vocabulary's `rows`."""
        shape = self._shape
        x = self._embed()
        self._rotation("positions")
        for layer in range(shape.layers):
            x = self._layer(x, f"model.layers.{layer}", last=layer == shape.layers - 1)
        x = self._norm(x, "model.norm")
        head = self._tensor(shape.head).pick(rows).T
        self._graph.op("MatMul", [x.name, self._graph.weight("verdict_head", head)], "scores")

    def _layer(self, x: Value, name: str, *, last: bool) -> Value:
        shape = self._shape
        normed = self._norm(x, f"{name}.input_layernorm")
        k = self._rope(self._linear(normed, f"{name}.self_attn.k_proj"), shape.kv_heads, "rotation")
        v = self._linear(normed, f"{name}.self_attn.v_proj")
        mask, rotation = "mask", "rotation"
        if last:
            # Only the slots are scored: from here on they are the only rows that matter.
            index = self._graph.op("Squeeze", ["slots", self._graph.constant(np.array([0]))], "slots.index")[0]
            x, normed = self._rows(x, index), self._rows(normed, index)
            mask = self._graph.op("Gather", ["mask", index], "mask.slots", axis=2)[0]
            at = self._graph.op("Gather", ["positions", index], "positions.slots", axis=1)[0]
            rotation = self._rotation(at)
        q = self._rope(self._linear(normed, f"{name}.self_attn.q_proj"), shape.heads, rotation)
        attended = self._attention(q, k, v, mask, f"{name}.self_attn")
        x = self._add(x, self._linear(attended, f"{name}.self_attn.o_proj"))
        normed = self._norm(x, f"{name}.post_attention_layernorm")
        gate = self._linear(normed, f"{name}.mlp.gate_proj")
        up = self._linear(normed, f"{name}.mlp.up_proj")
        return self._add(x, self._linear(self._gated(gate, up, f"{name}.mlp"), f"{name}.mlp.down_proj"))

    def _embed(self) -> Value:
        table = self._tensor("model.embed_tokens.weight")
        stored = _embedding_dtype(table, self._recipe)
        self._graph.begin_weight("embedding", stored, table.shape)
        for start, count in table.chunks():
            # Rows as stored where the dtype stays, so that the copy is exact; checked for NaN all the same.
            data = table.rows(start, count)
            self._graph.append(table.raw(start, count) if stored == table.dtype else _narrow(data, stored, table.name))
            self._progress(data.size)
        looked_up = self._graph.op("Gather", ["embedding", "tokens"], "embed.rows")[0]
        name = self._graph.op("Cast", [looked_up], "embed", to=TensorProto.FLOAT)[0]
        empty = np.zeros((0, self._shape.hidden), np.float32)
        return Value(name, table.pick(self._prefix.tokens) if self._prefix.tokens else empty)

    def _rotation(self, positions: str) -> str:
        """cos and sin of every position's angles, computed in the graph: any context length, nothing stored."""
        name = "rotation" if positions == "positions" else f"{positions}.rotation"
        inv_freq = self._graph.constant(self._shape.inv_freq)
        column = self._graph.op("Unsqueeze", [positions, self._graph.constant(np.array([2]))], f"{name}.column")[0]
        angles = self._graph.op("Cast", [column], f"{name}.float", to=TensorProto.FLOAT)[0]
        angles = self._graph.op("Mul", [angles, inv_freq], f"{name}.angles")[0]
        self._graph.op("Cos", [angles], f"{name}.cos")
        self._graph.op("Sin", [angles], f"{name}.sin")
        return name

    def _rope(self, x: Value, heads: int, rotation: str) -> Value:
        inputs = [x.name, f"{rotation}.cos", f"{rotation}.sin"]
        name = self._graph.op("RotaryEmbedding", inputs, f"{x.name}.rope", num_heads=heads)[0]
        split = x.baked.reshape(len(x.baked), heads, 2, self._shape.head_dim // 2)
        cos, sin = self._cos[: len(split), None], self._sin[: len(split), None]
        first, second = split[:, :, 0], split[:, :, 1]
        turned = np.stack([first * cos - second * sin, second * cos + first * sin], axis=2)
        return Value(name, turned.reshape(x.baked.shape))

    def _attention(self, q: Value, k: Value, v: Value, mask: str, name: str) -> Value:
        shape = self._shape
        keys, values = (_heads(x.baked, shape.kv_heads) for x in (k, v))
        baked = (("k", keys), ("v", values)) if self._prefix.tokens else ()
        past = [self._graph.weight(f"{name}.{kind}_prefix", x[None]) for kind, x in baked]
        scale = 1 / math.sqrt(shape.head_dim)
        # The operator insists that present keys and values are declared where past ones are given.
        output, *_ = self._graph.op(
            "Attention", [q.name, k.name, v.name, mask, *past], f"{name}.attention", outputs=3,
            q_num_heads=shape.heads, kv_num_heads=shape.kv_heads, scale=scale,
        )  # fmt: skip
        queries = _heads(q.baked, shape.heads)
        group = shape.heads // shape.kv_heads
        scores = queries @ np.repeat(keys, group, axis=0).transpose(0, 2, 1) * np.float32(scale)
        scores = np.where(self._sees[: len(q.baked)], scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=-1e30))
        mixed = weights / weights.sum(axis=-1, keepdims=True) @ np.repeat(values, group, axis=0)
        return Value(output, mixed.transpose(1, 0, 2).reshape(len(q.baked), shape.heads * shape.head_dim))

    def _norm(self, x: Value, name: str) -> Value:
        weight = self._tensor(f"{name}.weight").read()
        inputs = [x.name, self._graph.weight(f"{name}.weight", weight)]
        output = self._graph.op("RMSNormalization", inputs, name, axis=-1, epsilon=self._shape.eps)[0]
        mean = np.mean(x.baked**2, axis=-1, keepdims=True)
        return Value(output, (x.baked / np.sqrt(mean + np.float32(self._shape.eps)) * weight).astype(np.float32))

    def _gated(self, gate: Value, up: Value, name: str) -> Value:
        # silu(x) = x sigmoid(x). ONNX's Swish says the same, and ONNX Runtime 1.31 runs it as two operators.
        activated = self._graph.op("QuickGelu", [gate.name], f"{name}.silu", domain=CONTRIB, alpha=1.0)[0]
        output = self._graph.op("Mul", [activated, up.name], f"{name}.gated")[0]
        with np.errstate(over="ignore"):  # exp of a large negative gate: silu is 0 there, as it should be
            return Value(output, gate.baked / (1 + np.exp(-gate.baked)) * up.baked)

    def _add(self, x: Value, y: Value) -> Value:
        return Value(self._graph.op("Add", [x.name, y.name], f"{y.name}.residual")[0], x.baked + y.baked)

    def _rows(self, x: Value, index: str) -> Value:
        return Value(self._graph.op("Gather", [x.name, index], f"{x.name}.slots", axis=1)[0], x.baked[:0])

    def _linear(self, x: Value, name: str) -> Value:
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


def _narrow(data: Array, dtype: np.dtype[Any], name: str) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):
        narrow = data.astype(dtype)
    if not np.isfinite(narrow).all():
        raise CheckpointError(f"{name} holds values beyond {dtype}; export with --quant fp32")
    return narrow


def inputs(columns: int) -> list[Any]:
    """The graph's inputs. One request is one pass, so the batch is 1; T and S are free."""
    value = helper.make_tensor_value_info
    return [
        value("tokens", TensorProto.INT64, [1, "T"]),
        value("positions", TensorProto.INT64, [1, "T"]),
        value("mask", TensorProto.BOOL, [1, 1, "T", f"T + {columns}"]),
        value("slots", TensorProto.INT64, [1, "S"]),
    ]


def outputs(labels: int) -> list[Any]:
    """The graph's output."""
    return [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, "S", labels])]
