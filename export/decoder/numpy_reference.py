"""The checkpoint's own forward in numpy, float32: of the prefix, which is baked, and of the gate's texts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from guardpass.format.manifest import Prefix
from guardpass.format.tree import ancestors
from guardpass.plan import Pass

from ..checkpoint.architecture import Activation, Architecture
from ..checkpoint.files import Array

Index = npt.NDArray[np.int64]
_SLICE = 1 << 22  # activations gated at a time


@dataclass(frozen=True)
class Segment:
    """Rows that look alike: the prefix, or one pass. `sees` [queries, keys]; keys index all rows."""

    queries: slice
    keys: Index
    sees: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """Tokens that go through the layers one above the other: the prefix's, then those of each pass."""

    positions: Index  # of the rows that ask, [Q]
    every: Index  # of all rows, [R]
    segments: tuple[Segment, ...]
    kept: Index  # the last layer's rows: the slots, behind the prefix's last


def rows_of(prefix: Prefix, passes: Sequence[Pass]) -> Rows:
    """All rows. In the last layer the prefix's last token stands in for its slots, so that export sees an overflow."""
    baked = len(prefix.tokens)
    segments = []
    sees = ancestors(prefix.parents) if baked else np.zeros((0, 0), np.bool_)
    if baked:
        segments.append(Segment(slice(0, baked), np.arange(baked), sees))
    positions, kept, start = [sees.sum(axis=1) - 1], [np.arange(baked)[-1:]], baked
    for request in passes:
        end = start + request.tokens.size
        mask = request.mask[0, 0]
        columns = np.flatnonzero(mask.any(axis=0))
        keys = np.where(columns < baked, columns, columns - baked + start)
        segments.append(Segment(slice(start, end), keys, mask[:, columns]))
        positions.append(request.positions[0])
        kept.append(request.slots[0] + start)
        start = end
    every = np.concatenate(positions)
    return Rows(every, every, tuple(segments), np.concatenate(kept))


def slots_of(rows: Rows) -> Rows:
    """The rows of the last layer, each segment's own."""
    segments, start = [], 0
    for segment in rows.segments:
        mine = rows.kept[(rows.kept >= segment.queries.start) & (rows.kept < segment.queries.stop)]
        end = start + len(mine)
        segments.append(Segment(slice(start, end), segment.keys, segment.sees[mine - segment.queries.start]))
        start = end
    return replace(rows, positions=rows.every[rows.kept], segments=tuple(segments))


def attend(q: Array, k: Array, v: Array, rows: Rows, window: int | None, arch: Architecture) -> Array:
    """Attention of q [Q, heads * head_dim] over k and v [R, kv_heads * head_dim]."""
    mixed = np.empty_like(q)
    queries, keys, values = (x.reshape(len(x), x.shape[1] // arch.head_dim, arch.head_dim) for x in (q, k, v))
    group = arch.heads // arch.kv_heads
    for segment in rows.segments:
        asking = queries[segment.queries].transpose(1, 0, 2).reshape(arch.kv_heads, -1, arch.head_dim)
        seen = keys[segment.keys].transpose(1, 2, 0)
        scores = (asking @ seen * np.float32(arch.scale)).reshape(arch.kv_heads, group, -1, len(segment.keys))
        if arch.softcap:
            scores = np.tanh(scores / np.float32(arch.softcap)) * np.float32(arch.softcap)
        distance = rows.positions[segment.queries, None] - rows.every[segment.keys]
        scores = np.where(segment.sees & (distance < (window or math.inf)), scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=-1e30))
        weights /= weights.sum(axis=-1, keepdims=True)
        outputs = weights.reshape(arch.kv_heads, -1, len(segment.keys)) @ values[segment.keys].transpose(1, 0, 2)
        outputs = outputs.reshape(arch.heads, -1, arch.head_dim).transpose(1, 0, 2)
        mixed[segment.queries] = outputs.reshape(len(outputs), -1)
    return mixed


def rope(x: Array, cos: Array, sin: Array) -> Array:
    """Turn x [rows, heads * head_dim] by the angles [rows, head_dim / 2] of its rows."""
    half = cos.shape[-1]
    split = x.reshape(len(x), x.shape[1] // (2 * half), 2, half)
    first, second, cos, sin = split[:, :, 0], split[:, :, 1], cos[:, None], sin[:, None]
    return np.stack([first * cos - second * sin, second * cos + first * sin], axis=2).reshape(x.shape)


def norm(x: Array, gain: Array, eps: float) -> Array:
    """RMSNorm along the last axis (arXiv 1910.07467)."""
    mean = np.mean(np.square(x), axis=-1, keepdims=True)
    normed: Array = x / np.sqrt(mean + np.float32(eps))
    normed *= gain
    return normed


def gate(kind: Activation, gates: Array, up: Array) -> Array:
    """activation(gates) * up, in the place of `gates`: at a gate's many rows these are the largest arrays there are."""
    compute = {"silu": _silu, "gelu_tanh": _gelu_tanh}[kind]
    step = max(1, _SLICE // max(1, gates.shape[-1]))
    for start in range(0, len(gates), step):
        part = slice(start, start + step)
        np.multiply(compute(gates[part]), up[part], out=gates[part])
    return gates


def _silu(x: Array) -> Array:
    with np.errstate(over="ignore"):  # exp of a large negative gate: silu is 0 there, as it should be
        gated: Array = x / (1 + np.exp(-x))
    return gated


def _gelu_tanh(x: Array) -> Array:
    """Hendrycks & Gimpel, arXiv 1606.08415, the approximation."""
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)
    half: Array = np.float32(0.5) * x * (1 + np.tanh(inner))
    return half
