"""An ONNX graph and its weight file, written node by node and tensor by tensor."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from guardpass.format.manifest import File

from ..decoder.writer import CONTRIB

OPSET = 24
INLINE = 1024  # bytes; ONNX Runtime wants small tensors (shapes, scalars) inside the model
_PAGE = 4096  # so that ONNX Runtime can map a tensor instead of copying it


class Graph:
    """Collects nodes in memory and appends weights to a file, hashing it on the way."""

    def __init__(self, data: Path) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: list[onnx.TensorProto] = []
        self._constants: dict[bytes, str] = {}
        self._names: dict[str, int] = {}
        self._location = data.name
        self._file = data.open("wb")
        self._digest = hashlib.sha256()
        self._size = 0

    def op(
        self,
        kind: str,
        inputs: Sequence[str],
        name: str,
        /,
        outputs: int = 1,
        *,
        domain: str = "",
        **attributes: Any,
    ) -> tuple[str, ...]:
        """Add a node called `name`; returns the names of its outputs."""
        seen = self._names[name] = self._names.get(name, -1) + 1
        unique = f"{name}.{seen}" if seen else name
        names = tuple(f"{unique}/{i}" if outputs > 1 else unique for i in range(outputs))
        self._nodes.append(helper.make_node(kind, inputs, names, name=unique, domain=domain, **attributes))
        return names

    def constant(self, value: npt.NDArray[Any]) -> str:
        """A small tensor, stored in the model itself; equal ones are stored once."""
        key = repr((value.dtype.str, value.shape)).encode() + value.tobytes()
        if key not in self._constants:
            self._constants[key] = f"constant.{len(self._constants)}"
            self._tensors.append(numpy_helper.from_array(value, self._constants[key]))
        return self._constants[key]

    def weight(self, name: str, value: npt.NDArray[Any]) -> str:
        """A tensor, appended to the weight file."""
        if value.nbytes <= INLINE:
            self._tensors.append(numpy_helper.from_array(value, name))
            return name
        self.begin_weight(name, value.dtype, value.shape)
        self.append(value)
        return name

    def begin_weight(self, name: str, dtype: np.dtype[Any], shape: Sequence[int]) -> None:
        """Declare a large tensor whose bytes follow through `append`."""
        self._write(b"\0" * (-self._size % _PAGE))
        tensor = TensorProto(name=name, dims=shape, data_type=helper.np_dtype_to_tensor_dtype(dtype))
        tensor.data_location = TensorProto.EXTERNAL
        length = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        for key, value in (("location", self._location), ("offset", self._size), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        self._tensors.append(tensor)

    def append(self, value: npt.NDArray[Any]) -> None:
        """Bytes of the tensor begun last."""
        self._write(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)

    def _write(self, data: Any) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)

    def finish(
        self, model: Path, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> File:
        """Write the model beside its weights; returns what the manifest says of those."""
        self._file.close()
        graph = helper.make_graph(self._nodes, "guard", inputs, outputs, self._tensors)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        proto = helper.make_model(graph, opset_imports=opsets, ir_version=11, producer_name="guardpass")
        model.write_bytes(proto.SerializeToString())
        return File(self._digest.hexdigest(), self._size)

    def close(self) -> None:
        """Release the weight file of an export that failed."""
        self._file.close()


def inputs(columns: int, batch: int | str = 1) -> list[Any]:
    """The graph's inputs, for `columns` baked ones; T and S are free, and so is a batch that has a name."""
    value = helper.make_tensor_value_info
    return [
        value("tokens", TensorProto.INT64, [batch, "T"]),
        value("positions", TensorProto.INT64, [batch, "T"]),
        value("mask", TensorProto.BOOL, [batch, 1, "T", f"T + {columns}"]),
        value("slots", TensorProto.INT64, [batch, "S"]),
    ]


def outputs(labels: int, batch: int | str = 1) -> list[Any]:
    """The graph's output."""
    return [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, "S", labels])]
