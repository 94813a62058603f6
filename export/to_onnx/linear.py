"""Linear layers as ONNX operators, at three precisions. One row each; weights pass through in row chunks."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..decoder.gptq import free_scale, rounded
from ..decoder.recipe import ALL, FLOAT, Dtype, Layer, Recipe, narrow, symmetric
from ..decoder.writer import CONTRIB
from .graph import Graph

Linear = Callable[[Graph, Layer], str]  # adds weights and the node that applies them; returns the node's output


def matmul(graph: Graph, layer: Layer, dtype: Dtype) -> str:
    """MatMul of weights and activations of one floating-point type. Raises CheckpointError for weights beyond it."""
    weights = np.empty((layer.k, layer.n), dtype)
    for rows, chunk in layer.stream:
        weights[:, rows] = narrow(chunk, dtype, layer.name).T
    return graph.op("MatMul", [layer.inputs, graph.weight(f"{layer.name}.weight", weights)], layer.name)[0]


def fp32(graph: Graph, layer: Layer) -> str:
    """MatMul in float32: the reference."""
    return matmul(graph, layer, FLOAT)


def per_tensor(graph: Graph, layer: Layer) -> str:
    """W8A8: weights symmetric per output channel, activations asymmetric per pass (DynamicQuantizeMatMul)."""
    weights, scales = np.empty((layer.k, layer.n), np.int8), np.empty(layer.n, np.float32)
    for rows, chunk in layer.stream:
        levels, scales[rows] = symmetric(chunk)
        weights[:, rows] = levels.T
    names = [graph.weight(f"{layer.name}.weight", weights), graph.weight(f"{layer.name}.scale", scales)]
    return graph.op("DynamicQuantizeMatMul", [layer.inputs, *names], layer.name, domain=CONTRIB)[0]


def per_token(graph: Graph, layer: Layer) -> str:
    """`per_tensor` with rows brought to one size before, and back after: nearly a scale for each.

    ONNX Runtime's RMS norm, one operator, tells what it divided by. A row that overflows it comes out as NaN.
    """
    ones = graph.constant(np.ones(layer.k, np.float32))
    even, factor = graph.op(
        "SimplifiedLayerNormalization", [layer.inputs, ones], f"{layer.name}.even", outputs=2, axis=-1, epsilon=1e-30
    )
    return graph.op("Div", [per_tensor(graph, replace(layer, inputs=even)), factor], f"{layer.name}.rows")[0]


def int8(graph: Graph, layer: Layer) -> str:
    """W8A8, with scales per token where it matters."""
    return (per_token if layer.uneven else per_tensor)(graph, layer)


def int4(graph: Graph, layer: Layer, *, block: int = 32, level: int = 4) -> str:
    """4-bit weights in blocks along K, activations int8 by block at accuracy level 4 (MatMulNBits).

    The defaults were chosen by `python -m guardpass.bench.quantization`; docs/quantization.md has its figures.
    """
    blocks = -(-layer.k // block)
    packed = np.empty((layer.n, blocks, block // 2), np.uint8)
    scales = np.empty((layer.n, blocks), np.float32)
    for rows, chunk in layer.stream:
        levels, scales[rows] = rounded(chunk, layer.seen, block, free_scale)
        nibbles = np.full((len(chunk), blocks * block), 8, np.uint8)  # 8 is zero
        nibbles[:, : layer.k] += levels.astype(np.uint8)  # modulo 256, so that -8 becomes 0
        packed[rows] = (nibbles[:, 0::2] | nibbles[:, 1::2] << np.uint8(4)).reshape(len(chunk), blocks, -1)
    names = [graph.weight(f"{layer.name}.weight", packed), graph.weight(f"{layer.name}.scale", scales)]
    attributes = {"K": layer.k, "N": layer.n, "bits": 4, "block_size": block, "accuracy_level": level}
    return graph.op("MatMulNBits", [layer.inputs, *names], layer.name, domain=CONTRIB, **attributes)[0]


RECIPES: dict[str, Recipe[Graph]] = {
    "fp32": Recipe("fp32", fp32),
    "int8": Recipe("int8", int8, ALL, balanced=True),
    "int4": Recipe("int4", int4, ALL, balanced=True, calibrated=True),
}
