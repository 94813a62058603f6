"""What ONNX Runtime's CUDA provider has kernels for, of the operators that guards use.

From docs/OperatorKernels.md of ONNX Runtime, which its build generates from the registered kernels, in a version after
ONNX 1.22 came in, so of 1.28 or later (commit d31426f7 of a fork; that of release 1.31.1 itself could not be read). A
kernel fits an operator of the model's opset where the operator's version is the kernel's first one, or within a range
that has an end: ONNX Runtime takes no kernel without an end for a later version (kernel_registry.cc, VerifyVersion).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

F32, F16, BF16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
I64, BOOL = TensorProto.INT64, TensorProto.BOOL
_FLOATS = frozenset({F32, F16, BF16})
_ANY = _FLOATS | {I64, BOOL}


@dataclass(frozen=True)
class Kernel:
    """Versions from first to last (the same where there is no end), and types of what it computes with."""

    first: int
    last: int
    types: frozenset[int]


KERNELS = {
    ("", "Add"): Kernel(14, 14, _FLOATS | {I64}),
    ("", "And"): Kernel(7, 7, frozenset({BOOL})),
    ("", "Attention"): Kernel(24, 24, _FLOATS),
    ("", "Cast"): Kernel(23, 24, _ANY),
    ("", "Concat"): Kernel(13, 13, _ANY),
    ("", "Cos"): Kernel(22, 22, _FLOATS),
    ("", "CumSum"): Kernel(14, 14, frozenset({F32, F16, I64})),
    ("", "Div"): Kernel(14, 14, _FLOATS | {I64}),
    ("", "Flatten"): Kernel(23, 24, _ANY),
    ("", "Gather"): Kernel(13, 13, _ANY),
    ("", "Less"): Kernel(13, 13, frozenset({F32, F16, I64})),
    ("", "MatMul"): Kernel(13, 13, _FLOATS),
    ("", "Mul"): Kernel(14, 14, _FLOATS | {I64}),
    ("", "RMSNormalization"): Kernel(23, 23, _FLOATS),  # input and gain of one type
    ("", "Reshape"): Kernel(23, 24, _ANY),
    ("", "RotaryEmbedding"): Kernel(23, 23, _FLOATS),
    ("", "Sin"): Kernel(22, 22, _FLOATS),
    ("", "Sub"): Kernel(14, 14, _FLOATS | {I64}),
    ("", "Tanh"): Kernel(13, 13, _FLOATS),
    ("", "Unsqueeze"): Kernel(24, 24, _ANY),
    ("", "Where"): Kernel(16, 16, _FLOATS | {I64}),
    ("com.microsoft", "FastGelu"): Kernel(1, 1, _FLOATS),
    ("com.microsoft", "QuickGelu"): Kernel(1, 1, _FLOATS),
}
# Inputs that are no numbers to compute with: indices, axes, shapes and conditions.
_BESIDE = {"Gather": {1}, "CumSum": {1}, "Reshape": {1}, "Unsqueeze": {1}, "Where": {0}}


def misplaced(model: onnx.ModelProto) -> Iterator[str]:
    """Nodes that ONNX Runtime would not place on CUDA, and why."""
    opset = next(each.version for each in model.opset_import if not each.domain)
    types = {each.name: each.type.tensor_type.elem_type for each in model.graph.input}
    types |= {each.name: each.data_type for each in model.graph.initializer}
    for node in model.graph.node:
        beside = _BESIDE.get(node.op_type, set())
        read = {types[name] for place, name in enumerate(node.input) if place not in beside}
        given = next(iter(read))
        if node.op_type == "Cast":
            given = helper.get_node_attr_value(node, "to")
        elif node.op_type in ("Less", "And"):
            given = BOOL
        types |= dict.fromkeys(node.output, given)
        kernel = KERNELS.get((node.domain, node.op_type))
        if kernel is None:
            yield f"{node.name}: no kernel of {node.domain}.{node.op_type}"
            continue
        version = 1 if node.domain else onnx.defs.get_schema(node.op_type, opset).since_version
        if not kernel.first <= version <= kernel.last:
            yield f"{node.name}: {node.op_type} is of version {version}, the kernel of {kernel.first} to {kernel.last}"
        if len(read) > 1 or not read <= kernel.types:
            yield f"{node.name}: {node.op_type} of {sorted(map(TensorProto.DataType.Name, read))}"
