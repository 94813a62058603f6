"""The operations of a decoder, each done twice: in NumPy on the reference's rows, and as nodes for the writer.

A writer that is no graph takes the weights alone: engine `native` has its operations in code.

Weights stream by a chunk at a time. Each chunk multiplies the reference's activations and is then quantized and
written, so that an export reads every weight once and never holds a whole model.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from onnx import TensorProto, helper

from guardpass.errors import CheckpointError
from guardpass.format.manifest import Prefix
from guardpass.plan import Pass

from ..checkpoint.architecture import Activation, Architecture
from ..checkpoint.files import Array, Checkpoint, Tensor
from ..guard_dir.progress import Advance
from . import numpy_reference
from .gptq import Seen
from .numpy_reference import Index, Rows
from .recipe import FLOAT, Dtype, Layer, Place, Recipe, narrow
from .rotation import PLAIN, Basis, block_of, rotation
from .writer import CONTRIB, DecoderWriter

_TINY = np.float32(1e-20)


@dataclass(frozen=True)
class Value:
    """An activation: its name in the graph and the basis it has there, and the reference's own values [rows, width]."""

    name: str
    rows: Array
    basis: Basis = PLAIN


@dataclass(frozen=True)
class RopeAngles:
    """cos and sin of every row's angles: names in the graph, [1, T, head_dim / 2], and the reference's."""

    names: tuple[str, str]
    cos: Array
    sin: Array


T = TypeVar("T", bound=DecoderWriter)


class Ops:
    """Operations on the tensors of one checkpoint, written into one writer at one precision."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        arch: Architecture,
        graph: T,
        recipe: Recipe[T],
        prefix: Prefix,
        advance: Advance,
        calibration: Sequence[Pass] = (),
        judged: Sequence[Pass] = (),
    ) -> None:
        """calibration, judged: passes that the reference runs beside the prefix, for the recipe and for the gate."""
        self._checkpoint, self._arch, self._recipe = checkpoint, arch, recipe
        self._graph: DecoderWriter = graph
        self._linear: Callable[[Layer], str] = partial(recipe.linear, graph)
        self._advance = advance
        self._baked = len(prefix.tokens)
        self._fill = recipe.layout.filled(self._baked)
        passes = [*calibration, *judged]
        self.rows = numpy_reference.rows_of(prefix, passes)
        self._calibration = slice(self._baked, self._baked + sum(request.tokens.size for request in calibration))
        self._judged = [request.slots.size for request in judged]
        self._tokens = np.concatenate([np.array(prefix.tokens, np.int64), *(request.tokens[0] for request in passes)])
        self._seen = "", Seen(lambda: np.empty((0, 0), np.float32))
        self._mask = recipe.layout.begin(self._graph, self._fill)
        self._window_masks: dict[int, str] = {}
        self._seen_masks: dict[str, str] = {}

    def embed(self) -> Value:
        table = self._tensor("model.embed_tokens.weight")
        stored = _embedding_dtype(table, self._recipe)
        self._graph.begin_weight("embedding", stored, table.shape)
        for start, count in table.chunks():
            # Rows as stored where the dtype stays, so that the copy is exact; checked for NaN all the same.
            raw = table.raw(start, count)
            data = table.widened(raw)
            self._graph.append(raw if stored == table.dtype else narrow(data, stored, table.name))
            self._advance(data.size)
        looked_up = self._graph.op("Gather", ["embedding", "tokens"], "embed.rows")[0]
        name = self._cast(looked_up, stored, "embed", self._recipe.dtype)
        distinct, inverse = np.unique(self._tokens, return_inverse=True)
        empty = np.zeros((0, self._arch.hidden), np.float32)
        x = Value(name, table.pick(distinct.tolist())[inverse] if distinct.size else empty)
        if not self._arch.kind.scaled_embedding:
            return x
        scale = np.float32(math.sqrt(self._arch.hidden))
        factor = self._graph.constant(np.array(scale, self._recipe.dtype))
        scaled = self._graph.op("Mul", [x.name, factor], "embed.scaled")[0]
        return Value(scaled, x.rows * scale)

    def rotated(self, x: Value, place: Place) -> Value:
        """x in the basis that the recipe gives to this place; the graph turns it by a small MatMul."""
        block = self.block(x.rows.shape[1], place)
        if block == 1:
            return x
        op, constant = self._graph.op, self._graph.constant
        apart = op("Reshape", [x.name, constant(np.array([0, 0, -1, block]))], f"{x.name}.blocks")[0]
        spread = op("MatMul", [apart, constant(rotation(block))], f"{x.name}.rotated")[0]
        name = op("Reshape", [spread, constant(np.array([0, 0, -1]))], f"{x.name}.joined")[0]
        return Value(name, x.rows, Basis(x.basis.scale, block))

    def block(self, width: int, place: Place) -> int:
        """The size of rotations at a place; 1 is none."""
        return block_of(width, self._recipe.block) if place in self._recipe.rotates else 1

    def mask(self, window: int | None) -> str:
        """The mask of a layer: what the pass says, within the sliding window by position where there is one."""
        if window is None or window >= self._arch.context:
            return self._mask
        if window not in self._window_masks:
            op, constant = self._graph.op, self._graph.constant
            columns = "positions"
            if self._baked:
                baked = constant(np.pad(self.rows.every[: self._baked], (self._fill, 0))[None])
                baked = self._recipe.layout.lend(self._graph, baked)
                columns = op("Concat", [baked, "positions"], "window.columns", axis=1)[0]
            rows = op("Unsqueeze", ["positions", constant(np.array([2]))], "window.rows")[0]
            columns = op("Unsqueeze", [columns, constant(np.array([1]))], "window.columns")[0]
            distance = op("Sub", [rows, columns], "window.distance")[0]
            near = op("Less", [distance, constant(np.array(window))], "window.near")[0]
            near = op("Unsqueeze", [near, constant(np.array([1]))], "window.near")[0]
            self._window_masks[window] = op("And", [self._mask, near], "window.mask")[0]
        return self._window_masks[window]

    def rope_angles(self, positions: str, rows: Rows) -> RopeAngles:
        """cos and sin of every position's angles, computed in the graph: any context length, nothing stored."""
        name = f"{positions}.rotation"
        inv_freq = self._graph.constant(self._arch.inv_freq)
        column = self._graph.op("Unsqueeze", [positions, self._graph.constant(np.array([2]))], f"{name}.column")[0]
        angles = self._graph.op("Cast", [column], f"{name}.float", to=TensorProto.FLOAT)[0]
        angles = self._graph.op("Mul", [angles, inv_freq], f"{name}.angles")[0]
        cos, sin = (self._graph.op(kind, [angles], f"{name}.{kind.lower()}")[0] for kind in ("Cos", "Sin"))
        dtype = self._recipe.dtype
        names = self._cast(cos, FLOAT, f"{cos}.cast", dtype), self._cast(sin, FLOAT, f"{sin}.cast", dtype)
        radians = rows.positions[:, None].astype(np.float32) * self._arch.inv_freq
        return RopeAngles(names, np.cos(radians), np.sin(radians))

    def rope(self, x: Value, heads: int, angles: RopeAngles) -> Value:
        name = self._graph.op("RotaryEmbedding", [x.name, *angles.names], f"{x.name}.rope", num_heads=heads)[0]
        return Value(name, numpy_reference.rope(x.rows, angles.cos, angles.sin))

    def attention(self, q: Value, k: Value, v: Value, mask: str, rows: Rows, window: int | None, name: str) -> Value:
        arch = self._arch
        _check_finite(k.rows, v.rows)
        baked = (("k", k), ("v", v)) if self._baked else ()
        past = [self._past(f"{name}.{kind}_prefix", value) for kind, value in baked]
        if mask not in self._seen_masks:
            self._seen_masks[mask] = self._recipe.layout.seen(self._graph, mask, self._recipe.dtype)
        # The operator insists that present keys and values are declared where past ones are inputs.
        output, *_ = self._graph.op(
            "Attention",
            [q.name, k.name, v.name, self._seen_masks[mask], *past],
            f"{name}.attention",
            outputs=3,
            q_num_heads=arch.heads,
            kv_num_heads=arch.kv_heads,
            scale=arch.scale,
            softcap=arch.softcap or 0.0,
        )
        mixed = numpy_reference.attend(q.rows, k.rows, v.rows, rows, window, arch)
        return Value(output, mixed, v.basis.repeated(arch.kv_heads, arch.heads // arch.kv_heads))

    def _past(self, name: str, x: Value) -> str:
        """The baked rows of keys or values."""
        heads = _heads(x.basis.of(x.rows[: self._baked]), self._arch.kv_heads)
        filled = np.pad(narrow(heads, self._recipe.dtype, name), ((0, 0), (self._fill, 0), (0, 0)))
        return self._recipe.layout.lend(self._graph, self._graph.weight(name, filled[None]))

    def norm(self, x: Value, name: str, *, folded: bool = False) -> Value:
        """RMSNorm. `folded`: the gain is left to the linear layers that read the result, as a rotation demands."""
        gain = self._tensor(f"{name}.weight").read() + np.float32(self._arch.kind.norm_offset)
        folded = folded and bool(self._recipe.rotates)
        if folded:  # a gain of zero could not be undone
            gain = np.where(np.abs(gain) < _TINY, _TINY, gain)
        graph = self._graph
        narrowed = narrow(gain, self._recipe.dtype, f"{name}.weight")
        stored = graph.constant(np.ones_like(gain)) if folded else graph.weight(f"{name}.weight", narrowed)
        output = graph.op("RMSNormalization", [x.name, stored], name, axis=-1, epsilon=self._arch.eps)[0]
        basis = Basis(gain if folded else None, x.basis.block)
        return Value(output, numpy_reference.norm(x.rows, gain, self._arch.eps), basis)

    def head_norm(self, x: Value, heads: int, name: str) -> Value:
        """RMSNorm of every head by itself, where the architecture has one."""
        if not self._arch.kind.head_norms:
            return x
        split = self._graph.constant(np.array([0, 0, heads, self._arch.head_dim]))
        apart = self._graph.op("Reshape", [x.name, split], f"{name}.split")[0]
        normed = self.norm(Value(apart, x.rows.reshape(len(x.rows), heads, self._arch.head_dim)), name)
        joined = self._graph.op("Reshape", [normed.name, self._graph.constant(np.array([0, 0, -1]))], f"{name}.join")[0]
        return Value(joined, normed.rows.reshape(x.rows.shape))

    def gated(self, gate: Value, up: Value, name: str) -> Value:
        kind, attributes = _ACTIVATIONS[self._arch.kind.activation]
        activated = self._graph.op(kind, [gate.name], f"{name}.activation", domain=CONTRIB, **attributes)[0]
        output = self._graph.op("Mul", [activated, up.name], f"{name}.gated")[0]
        return Value(output, numpy_reference.gate(self._arch.kind.activation, gate.rows, up.rows), up.basis)

    def add(self, x: Value, y: Value) -> Value:
        return Value(self._graph.op("Add", [x.name, y.name], f"{y.name}.residual")[0], x.rows + y.rows, x.basis)

    def slots(self, mask: str) -> tuple[str, str, Rows, RopeAngles]:
        """Index of the slots' rows, and the mask, the reference's rows and the angles of those."""
        slots = self._recipe.layout.slots(self._graph, mask)
        rows = numpy_reference.slots_of(self.rows)
        return slots.index, slots.mask, rows, self.rope_angles(slots.positions, rows)

    def kept(self, x: Value, index: str) -> Value:
        """The slots' rows alone."""
        return Value(self._recipe.layout.kept(self._graph, x.name, index), x.rows[self.rows.kept], x.basis)

    def head(self, x: Value, columns: Sequence[int]) -> list[Array]:
        """Scores of the vocabulary's `columns`, softcapped where the architecture says so; of judged passes [S, V']."""
        verdicts = self._tensor(self._arch.head).pick(columns)
        scores: Array = x.rows @ verdicts.T
        _check_finite(scores)
        weight = self._graph.weight("verdict_head", np.ascontiguousarray(x.basis.read(verdicts).T))
        read = self._cast(x.name, self._recipe.dtype, "scores.read", FLOAT)
        softcap = self._arch.final_softcap
        if softcap is None:
            self._graph.op("MatMul", [read, weight], "scores")
            return self._apart(scores)
        cap = self._graph.constant(np.array(softcap, np.float32))
        raw = self._graph.op("MatMul", [read, weight], "scores.raw")
        squashed = self._graph.op("Tanh", self._graph.op("Div", [*raw, cap], "scores.scaled"), "scores.tanh")
        self._graph.op("Mul", [*squashed, cap], "scores")
        return self._apart(np.tanh(scores / np.float32(softcap)) * np.float32(softcap))

    def _apart(self, scores: Array) -> list[Array]:
        """The last rows, by judged pass."""
        ends = np.cumsum([len(scores) - sum(self._judged), *self._judged])
        return [scores[start:end] for start, end in pairwise(ends)]

    def linear(self, x: Value, name: str, *, block: int = 1, balanced: bool = False, uneven: bool = False) -> Value:
        """x times the transposed weights of layer `name`, the result rotated in blocks for what reads it.

        uneven: no norm has brought the rows of x to one size. balanced: rows of weights are scaled to length 1, for
        the layer that reads the result to scale it back: no channel is an outlier only because its weights are large.
        """
        balanced = balanced and self._recipe.balanced
        tensor = self._tensor(f"{name}.weight")
        n, k = tensor.shape
        rows = np.empty((len(x.rows), n), np.float32)
        scale = np.ones(n, np.float32)

        def stream() -> Iterator[tuple[slice, Array]]:
            for part, chunk in _ahead(tensor, block):
                np.matmul(x.rows, chunk.T, out=rows[:, part])
                self._advance(chunk.size)
                chunk = x.basis.read(chunk)
                if balanced:
                    length = np.linalg.norm(chunk.astype(np.float64), axis=1)
                    scale[part] = np.where((length > _TINY) & (length < 1 / _TINY), length, 1)
                yield part, Basis(scale[part] if balanced else None, block).write(chunk)

        if x.name != self._seen[0]:
            self._seen = x.name, Seen(lambda: x.basis.of(x.rows[self._calibrating(x)]))
        output = self._linear(Layer(name, x.name, n, k, stream(), self._seen[1], uneven))
        return Value(output, rows, Basis(scale if balanced else None, block))

    def _calibrating(self, x: Value) -> Index:
        """Which of x's rows are calibration's; in the last layer x may have the slots' rows alone."""
        every = np.arange(len(self.rows.every)) if len(x.rows) == len(self.rows.every) else self.rows.kept
        return np.flatnonzero((every >= self._calibration.start) & (every < self._calibration.stop))

    def _cast(self, x: str, has: Dtype, name: str, wanted: Dtype) -> str:
        if has == wanted:
            return x
        return self._graph.op("Cast", [x], name, to=helper.np_dtype_to_tensor_dtype(wanted))[0]

    def _tensor(self, name: str) -> Tensor:
        return self._checkpoint.tensors[name]


# By name: the operator that computes it in one step, and its attributes. ONNX's Swish is silu too, and ONNX Runtime
# 1.31 runs it as two operators.
_ACTIVATIONS: dict[Activation, tuple[str, dict[str, Any]]] = {
    "silu": ("QuickGelu", {"alpha": 1.0}),
    "gelu_tanh": ("FastGelu", {}),
}


def _ahead(tensor: Tensor, multiple: int) -> Iterator[tuple[slice, Array]]:
    """The tensor's chunks of rows, the next one read and widened while the last is being quantized."""
    with ThreadPoolExecutor(1) as reader:
        waiting = None
        for start, count in tensor.chunks(multiple):
            following = slice(start, start + count), reader.submit(tensor.rows, start, count)
            if waiting:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting:
            yield waiting[0], waiting[1].result()


def _heads(x: Array, heads: int) -> Array:
    """[P, heads x dim] to [heads, P, dim]."""
    return x.reshape(len(x), heads, x.shape[1] // heads).transpose(1, 0, 2)


def _embedding_dtype(table: Tensor, recipe: Recipe[Any]) -> Dtype:
    """Two bytes a weight; only a float32 checkpoint exported as the float32 reference keeps four."""
    if recipe.dtype.itemsize == 2:
        return recipe.dtype
    if table.dtype.itemsize == 2 or recipe.name == "fp32":
        return table.dtype
    return np.dtype(np.float16)


def _check_finite(*values: Array) -> None:
    if not all(np.isfinite(value).all() for value in values):
        raise CheckpointError(
            "the weights overflow float32 on the guard's own prompt or texts, so no score could be trusted; "
            "check the checkpoint, its files may be damaged"
        )
