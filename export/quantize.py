"""Linear layers as ONNX operators, at three precisions. One row each; weights pass through in row chunks."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from guardpass.manifest import Quant

from .checkpoint import Array
from .graph import CONTRIB, Graph

_INT4_BLOCK = 32


class Linear(Protocol):
    """Writes weights [N, K], given as float32 row chunks in order, and adds the node that applies them."""

    def __call__(self, graph: Graph, inputs: str, name: str, chunks: Iterable[Array], n: int, k: int) -> str:
        """The name of the node's output."""


@dataclass(frozen=True)
class Recipe:
    """How a guard's linear layers are stored and run."""

    name: Quant
    linear: Linear
    description: str


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


def int4(graph: Graph, inputs: str, name: str, chunks: Iterable[Array], n: int, k: int) -> str:
    """4-bit weights in blocks of 32 along K, float32 activations (MatMulNBits, accuracy level 0)."""
    blocks = -(-k // _INT4_BLOCK)
    packed = np.empty((n, blocks, _INT4_BLOCK // 2), np.uint8)
    scales = np.empty((n, blocks), np.float32)
    start = 0
    for chunk in chunks:
        rows = slice(start, start + len(chunk))
        padded = np.pad(chunk, ((0, 0), (0, blocks * _INT4_BLOCK - k)))
        packed[rows], scales[rows] = _pack4(padded.reshape(len(chunk), blocks, _INT4_BLOCK))
        start = rows.stop
    names = [graph.weight(f"{name}.weight", packed), graph.weight(f"{name}.scale", scales)]
    return graph.op(
        "MatMulNBits", [inputs, *names], name, domain=CONTRIB,
        K=k, N=n, bits=4, block_size=_INT4_BLOCK, accuracy_level=0,
    )[0]  # fmt: skip


def _pack4(blocks: Array) -> tuple[npt.NDArray[np.uint8], Array]:
    """Nibbles (low first, 8 is zero) and scales of [..., block] weights."""
    # The value of largest magnitude maps to -8 exactly, which uses all 16 levels.
    extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1)[..., None], axis=-1)[..., 0]
    scale = extreme / -8
    safe = np.where(scale == 0, 1, scale)
    levels = np.clip(np.rint(blocks / safe[..., None]) + 8, 0, 15).astype(np.uint8)
    return levels[..., 0::2] | levels[..., 1::2] << 4, scale.astype(np.float32)


RECIPES: dict[str, Recipe] = {
    "fp32": Recipe("fp32", fp32, "float32 weights and activations: the reference"),
    "int8": Recipe("int8", int8, "8-bit weights and activations: fastest on CPUs with VNNI"),
    "int4": Recipe("int4", int4, "4-bit weights, float32 activations: smallest, slower"),
}
