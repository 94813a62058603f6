"""optimum's graph of a causal language model, cut to a verdict: our mask in, the verdict rows at the slots out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from guardpass.errors import CheckpointError

from ..to_onnx.graph import INLINE, inputs, outputs

SHORTEST = 24  # tokens that every probe has; a window smaller than that would show in its scores
_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Tanh", "Cast", "Identity"}
_INPUTS = {"input_ids", "attention_mask", "position_ids"}


class Uncut:
    """optimum's graph, to be cut in place."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self._graph = model, model.graph
        self._producers = {name: node for node in self._graph.node for name in node.output}
        self._constants = {tensor.name: tensor for tensor in self._graph.initializer}
        for node in self._graph.node:
            if node.op_type == "Constant" and node.attribute[0].HasField("t"):
                self._constants[node.output[0]] = node.attribute[0].t
        self._inputs = {value.name for value in self._graph.input}
        if not {"input_ids", "attention_mask"} <= self._inputs <= _INPUTS:
            raise CheckpointError(
                f"optimum's graph has inputs {', '.join(sorted(self._inputs))}, expected input_ids and attention_mask, "
                "and maybe position_ids; this architecture cannot be exported via optimum"
            )

    def causal_masks(self, layers: int) -> list[tuple[onnx.NodeProto, int]]:
        """The inputs of Add that bring every attention its mask; none where one is not provably the plain causal
        mask, or where the graph takes no positions."""
        masks = []
        for node in self._graph.node:
            add = self._producers.get(node.input[0]) if node.op_type == "Softmax" else None
            if add is not None and add.op_type == "Add":
                sides = [i for i in (0, 1) if self._matmul(add.input[1 - i])[0] and self._causal(add.input[i])]
                masks += [(add, i) for i in sides]
        return masks if len(masks) == layers and "position_ids" in self._inputs else []

    def _causal(self, tensor: str) -> bool:
        """Whether a tensor is made of lengths and attention_mask alone, with no number that could be a window's or a
        chunk's size: a size below the probes' length would show in their scores."""
        waiting, seen = [tensor], {tensor}
        while waiting:
            name = waiting.pop()
            node = self._producers.get(name)
            values = [self._constants[name]] if name in self._constants else []
            if (node is None or node.op_type == "Constant") and not values and name != "attention_mask":
                return False
            if node is not None and node.op_type not in ("Constant", "Shape"):
                values = [attribute.t for attribute in node.attribute if attribute.HasField("t")]
                waiting += [name for name in node.input if name and name not in seen]
                seen.update(node.input)
            for value in values:
                size = np.abs(numpy_helper.to_array(value).astype(np.float64))
                if not np.all((size < SHORTEST) | (size > 1e9)):  # the end of a slice, or -infinity
                    return False
        return True

    def _matmul(self, tensor: str) -> tuple[onnx.NodeProto | None, list[onnx.NodeProto]]:
        """The MatMul that a tensor comes from by elementwise steps with constants (scale, softcap, bias); the steps."""
        steps: list[onnx.NodeProto] = []
        node = self._producers.get(tensor)
        while node is not None and node.op_type in _ELEMENTWISE:
            steps.append(node)
            moving = [name for name in node.input if name not in self._constants]
            node = self._producers.get(moving[0]) if len(moving) == 1 else None
        return (node if node is not None and node.op_type == "MatMul" else None), steps

    def cut(self, rows: Sequence[int], vocab: int, masks: list[tuple[onnx.NodeProto, int]]) -> None:
        """Score `rows` at the slots alone, see what `mask` says in place of `masks`, and drop all else."""
        small: dict[str, npt.NDArray[Any]] = {"open": np.zeros(1, np.float32), "first axis": np.zeros(1, np.int64)}
        ones = helper.make_tensor("ones", TensorProto.INT64, [1], [1])
        small["closed"] = np.full(1, np.finfo(np.float32).min)
        self._graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in small.items())
        head, steps = self._matmul("logits")
        if head is None:
            raise CheckpointError(
                "optimum's graph does not end in a MatMul with the vocabulary's weights and elementwise steps; this "
                "architecture cannot be exported via optimum"
            )
        before = [
            helper.make_node("Identity", ["tokens"], ["input_ids"]),
            helper.make_node("Identity", ["positions"], ["position_ids"]),
            helper.make_node("Shape", ["tokens"], ["tokens.shape"]),
            helper.make_node("ConstantOfShape", ["tokens.shape"], ["attention_mask"], value=ones),
            helper.make_node("Where", ["mask", "open", "closed"], ["mask.bias"]),
            helper.make_node("Squeeze", ["slots", "first axis"], ["slots.index"]),
        ]
        gather = helper.make_node("Gather", [head.input[0], "slots.index"], ["slots.hidden"], axis=1)
        for add, side in masks:
            add.input[side] = "mask.bias"
        head.input[0] = "slots.hidden"
        head.input[1] = self._verdicts(head.input[1], rows, vocab)
        for step in steps:  # a bias is cut as well; a scale is one number
            for i, name in enumerate(step.input):
                if name in self._constants and self._constants[name].dims[-1:] == [vocab]:
                    step.input[i] = self._verdicts(name, rows, vocab)
        nodes = [*before]
        for node in self._graph.node:
            nodes += [gather, node] if node is head else [node]
        self._keep([*nodes, helper.make_node("Identity", ["logits"], ["scores"])], len(rows))

    def _verdicts(self, name: str, rows: Sequence[int], vocab: int) -> str:
        """A constant of the head, cut to the rows."""
        node = self._producers.get(name)
        turned = node is not None and node.op_type == "Transpose"
        constant = self._constants.get(node.input[0] if node is not None and turned else name)
        value = np.empty(0) if constant is None else numpy_helper.to_array(constant)
        value = value.T if turned else value
        if value.shape[-1] != vocab:
            raise CheckpointError(
                f"the head of optimum's graph has weights of shape {list(value.shape)}, expected a vocabulary of "
                f"{vocab} last; this architecture cannot be exported via optimum"
            )
        cut = np.ascontiguousarray(value[..., list(rows)])
        self._graph.initializer.append(numpy_helper.from_array(cut, f"verdict {name}"))
        return f"verdict {name}"

    def _keep(self, nodes: list[onnx.NodeProto], labels: int) -> None:
        """The nodes and weights that the scores need, and our inputs, of which some may be without use."""
        needed, kept = {"scores"}, []
        for node in reversed(nodes):
            if needed.intersection(node.output):
                kept.append(node)
                needed |= _reads(node)
        cut = helper.make_graph(kept[::-1], "guard", inputs(0), outputs(labels))
        self._graph.ClearField("value_info")
        for field in ("node", "input", "output"):
            self._graph.ClearField(field)
            getattr(self._graph, field).extend(getattr(cut, field))
        for i in reversed(range(len(self._graph.initializer))):  # in place: a copy would hold all weights twice
            if self._graph.initializer[i].name not in needed:
                del self._graph.initializer[i]


def _reads(node: onnx.NodeProto) -> set[str]:
    """Names a node reads; those of its branches included."""
    branches = [inner for attribute in node.attribute for inner in attribute.g.node]
    return set(node.input).union(*map(_reads, branches))


def save(model: onnx.ModelProto, directory: Path) -> Path:
    """Write model.onnx and its weight file; returns the latter's path."""
    data = directory / "model.onnx.data"
    data.unlink(missing_ok=True)  # onnx would append to it
    onnx.save_model(
        model, directory / "model.onnx", save_as_external_data=True, location=data.name, size_threshold=INLINE
    )
    return data
