"""A graph of the shape engine onnx has on CUDA: any batch, length and number of slots; one head of random attention."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from guardpass.format.manifest import Manifest

_WIDE = 8
POISON = 5  # a token whose embedding is no number


def write(path: Path, manifest: Manifest) -> Path:
    """Scores of `manifest`'s columns: token and position embedded, P baked columns, softmax over what is seen."""
    rng = np.random.default_rng(0)
    baked, columns = len(manifest.prefix.tokens), len(manifest.columns)
    embedded = rng.standard_normal((manifest.vocab, _WIDE), np.float32)
    embedded[POISON] = np.nan
    weights = {
        "tokens.weight": embedded,
        "positions.weight": rng.standard_normal((manifest.context, _WIDE), np.float32),
        "baked": rng.standard_normal((1, baked, _WIDE), np.float32),
        "head": rng.standard_normal((_WIDE, columns), np.float32),
        "never": np.float32(-np.inf),
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
        "batch": np.array([0], np.int64),
        "rest": np.array([1, 1], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["tokens.weight", "tokens"], ["token"]),
        helper.make_node("Gather", ["positions.weight", "positions"], ["position"]),
        helper.make_node("Add", ["token", "position"], ["x"]),
        helper.make_node("Shape", ["tokens"], ["whole"]),
        helper.make_node("Gather", ["whole", "batch"], ["many"]),
        helper.make_node("Concat", ["many", "rest"], ["spread"], axis=0),
        helper.make_node("Expand", ["baked", "spread"], ["before"]),
        helper.make_node("Concat", ["before", "x"], ["keys"], axis=1),
        helper.make_node("Transpose", ["keys"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "turned"], ["likeness"]),
        helper.make_node("Squeeze", ["mask", "one"], ["sees"]),
        helper.make_node("Where", ["sees", "likeness", "never"], ["seen"]),
        helper.make_node("Softmax", ["seen"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "keys"], ["y"]),
        helper.make_node("Unsqueeze", ["slots", "two"], ["rows"]),
        helper.make_node("GatherND", ["y", "rows"], ["read"], batch_dims=1),
        helper.make_node("MatMul", ["read", "head"], ["scores"]),
    ]
    numbers = {"tokens": ["B", "T"], "positions": ["B", "T"], "slots": ["B", "S"]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, dims) for name, dims in numbers.items()]
    inputs.append(helper.make_tensor_value_info("mask", TensorProto.BOOL, ["B", 1, "T", "PT"]))
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", "S", columns])]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def texts(count: int, seed: int = 0, longest: int = 60) -> list[str]:
    """Words of several lengths."""
    rng: npt.NDArray[np.int64] = np.random.default_rng(seed).integers(1, longest, count)
    return [" ".join(f"word{n * 7 % 31}" for n in range(int(size))) for size in rng]
