"""Linear layers as ONNX operators, at three precisions. One row each; weights pass through in row chunks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from guardpass.manifest import Quant

from .checkpoint import Array
from .graph import CONTRIB, Graph

_INT4_CHUNK = 1 << 18  # weights searched at a time, small enough to stay in cache
INT4_SEARCH = (1.08, 1.0, 0.93, 0.86, 0.79)


class Linear(Protocol):
    """Writes weights [N, K], given as float32 row chunks in order, and adds the node that applies them."""

    def __call__(self, graph: Graph, inputs: str, name: str, chunks: Iterable[Array], n: int, k: int) -> str:
        """The name of the node's output."""


@dataclass(frozen=True)
class Recipe:
    """How a guard's linear layers are stored and run."""

    name: Quant
    linear: Linear


def fp32(graph: Graph, inputs: str, name: str, chunks: Iterable[Array], n: int, k: int) -> str:
    """MatMul in float32: the reference."""
    weights = np.empty((k, n), np.float32)
    start = 0
    for chunk in chunks:
        weights[:, start : start + len(chunk)] = chunk.T
        start += len(chunk)
    return graph.op("MatMul", [inputs, graph.weight(f"{name}.weight", weights)], name)[0]


def int8(graph: Graph, inputs: str, name: str, chunks: Iterable[Array], n: int, k: int) -> str:
    """W8A8: weights symmetric per output channel, activations asymmetric per pass (DynamicQuantizeMatMul)."""
    weights, scales = np.empty((k, n), np.int8), np.empty(n, np.float32)
    start = 0
    for chunk in chunks:
        rows = slice(start, start + len(chunk))
        scales[rows] = np.maximum(np.abs(chunk).max(axis=1), 1e-30) / 127
        quantized = chunk * (1 / scales[rows])[:, None]
        weights[:, rows] = np.rint(quantized, out=quantized).astype(np.int8).T
        start = rows.stop
    names = [graph.weight(f"{name}.weight", weights), graph.weight(f"{name}.scale", scales)]
    return graph.op("DynamicQuantizeMatMul", [inputs, *names], name, domain=CONTRIB)[0]


def int4(
    graph: Graph,
    inputs: str,
    name: str,
    chunks: Iterable[Array],
    n: int,
    k: int,
    *,
    block: int = 32,
    search: Sequence[float] = INT4_SEARCH,
    level: int = 4,
) -> str:
    """4-bit weights in blocks along K, activations int8 by block at accuracy level 4 (MatMulNBits).

    The defaults were chosen by `python -m guardpass.bench.quantization`; docs/quantization.md has its figures.
    """
    blocks = -(-k // block)
    packed = np.empty((n, blocks, block // 2), np.uint8)
    scales = np.empty((n, blocks), np.float32)
    start = 0
    for chunk in chunks:
        padded = np.pad(chunk, ((0, 0), (0, blocks * block - k))).reshape(len(chunk), blocks, block)
        step = max(1, _INT4_CHUNK // k)
        for first in range(0, len(chunk), step):
            rows = slice(start + first, start + min(first + step, len(chunk)))
            packed[rows], scales[rows] = _pack4(padded[first : first + step], search)
        start += len(chunk)
    names = [graph.weight(f"{name}.weight", packed), graph.weight(f"{name}.scale", scales)]
    attributes = {"K": k, "N": n, "bits": 4, "block_size": block, "accuracy_level": level}
    return graph.op("MatMulNBits", [inputs, *names], name, domain=CONTRIB, **attributes)[0]


def _pack4(blocks: Array, search: Sequence[float]) -> tuple[npt.NDArray[np.uint8], Array]:
    """Nibbles (low first, 8 is zero) and scales of [..., block] weights: of a few scales, the least squared error."""
    # The value of largest magnitude maps to -8 exactly, which uses all 16 levels; other scales are near that one.
    extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1)[..., None], axis=-1)
    base = np.where(extreme == 0, 1, extreme / -8).astype(np.float32)
    best, scale = np.full(base.shape, np.inf, np.float32), base
    levels = np.zeros_like(blocks)
    for factor in search:
        tried = base * np.float32(factor)
        rounded = np.clip(np.rint(blocks / tried), -8, 7)
        error = np.square(rounded * tried - blocks).sum(axis=-1, keepdims=True)
        better = error < best
        best, scale = np.where(better, error, best), np.where(better, tried, scale)
        np.copyto(levels, rounded, where=better)
    nibbles: npt.NDArray[np.uint8] = (levels + 8).astype(np.uint8)
    packed: npt.NDArray[np.uint8] = nibbles[..., 0::2] | nibbles[..., 1::2] << np.uint8(4)
    return packed, scale[..., 0]


RECIPES: dict[str, Recipe] = {
    "fp32": Recipe("fp32", fp32),
    "int8": Recipe("int8", int8),
    "int4": Recipe("int4", int4),
}
