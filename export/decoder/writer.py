"""What the operations of a decoder are written into."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

CONTRIB = "com.microsoft"  # the domain of ONNX Runtime's own operators


class DecoderWriter(Protocol):
    """Takes nodes and the tensors they read, as `to_onnx.graph.Graph` does."""

    def op(
        self, kind: str, inputs: Sequence[str], name: str, /, outputs: int = 1, *, domain: str = "", **attributes: Any
    ) -> tuple[str, ...]: ...

    def constant(self, value: npt.NDArray[Any], /) -> str: ...

    def weight(self, name: str, value: npt.NDArray[Any], /) -> str: ...

    def begin_weight(self, name: str, dtype: np.dtype[Any], shape: Sequence[int], /) -> None: ...

    def append(self, value: npt.NDArray[Any], /) -> None: ...


class NullWriter:
    """Writes nothing: only the reference is computed."""

    def op(
        self, _kind: str, _inputs: Sequence[str], name: str, /, outputs: int = 1, **_attributes: Any
    ) -> tuple[str, ...]:
        return tuple(f"{name}/{number}" for number in range(outputs))

    def constant(self, _value: npt.NDArray[Any], /) -> str:
        return "constant"

    def weight(self, name: str, _value: npt.NDArray[Any], /) -> str:
        return name

    def begin_weight(self, _name: str, _dtype: np.dtype[Any], _shape: Sequence[int], /) -> None: ...

    def append(self, _value: npt.NDArray[Any], /) -> None: ...
