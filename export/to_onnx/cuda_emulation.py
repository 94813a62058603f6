"""A guard for CUDA, run on the CPU: ONNX Runtime has no bfloat16 operators there, so they are made of float32 ones.

Each operator computes in float32 and its results are rounded, as a GPU's do: its sums are float32, only in another
order. Inside the fused attention a GPU rounds the weights of the values to 16 bits, which is not done here.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from guardpass.errors import EngineError
from guardpass.plan import Pass

_HALF = (TensorProto.BFLOAT16, TensorProto.FLOAT16)
_MOVES = frozenset({"Concat", "Flatten", "Gather", "Reshape", "Unsqueeze"})  # these round nothing, and take any type


class OnCpu:
    """An engine for one pass at a time."""

    def __init__(self, model: Path, columns: int) -> None:
        """columns: V', the scores of a slot. Raises EngineError."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        wide = model.with_name("wide.onnx")  # beside the weights, which it shares
        try:
            wide.write_bytes(widened(onnx.load(model, load_external_data=False)).SerializeToString())
            # Folded, the weights would all be widened at once: twice the model's memory.
            self._session = ort.InferenceSession(
                wide, options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantFolding"]
            )
        except Exception as error:  # ONNX Runtime's exceptions share no public base
            raise EngineError(f"onnxruntime {ort.__version__} cannot open {model.name} on the CPU: {error}") from None
        finally:
            wide.unlink(missing_ok=True)
        self._columns = columns

    def run(self, request: Pass) -> npt.NDArray[np.float32]:
        """Scores [1, S, V']. Raises EngineError."""
        feeds = {name: getattr(request, name) for name in ("tokens", "positions", "mask", "slots")}
        try:
            (scores,) = self._session.run(["scores"], feeds)
        except Exception as error:
            raise EngineError(f"onnxruntime failed on a pass of {request.tokens.size} tokens: {error}") from None
        result: npt.NDArray[np.float32] = scores
        assert result.shape == (1, request.slots.shape[1], self._columns)
        return result


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every 16-bit operator computing in float32 between casts; changes and returns `model`."""
    half = {tensor.name: tensor.data_type for tensor in model.graph.initializer if tensor.data_type in _HALF}
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        if node.op_type == "Cast":
            kind = helper.get_node_attr_value(node, "to")
            half |= {node.output[0]: kind} if kind in _HALF else {}
            model.graph.node.append(node)
            continue
        kind = next((half[name] for name in node.input if name in half), None)
        if kind is None:
            model.graph.node.append(node)
            continue
        half |= dict.fromkeys(node.output, kind)
        model.graph.node.extend([node] if node.op_type in _MOVES else _between_casts(node, half, kind))
    return model


def _between_casts(node: onnx.NodeProto, half: dict[str, int], kind: int) -> Iterator[onnx.NodeProto]:
    made = onnx.NodeProto()
    made.CopyFrom(node)
    for place, name in enumerate(node.input):
        if name in half:
            made.input[place] = f"{node.name}.in{place}"
            yield helper.make_node("Cast", [name], [made.input[place]], to=TensorProto.FLOAT)
    made.output[:] = [f"{name}.wide" for name in node.output]
    yield made
    for name in node.output:
        yield helper.make_node("Cast", [f"{name}.wide"], [name], to=kind)
