"""What the operations of a decoder are written into."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

CONTRIB = "com.microsoft"  # the domain of ONNX Runtime's own operators


class Target(Protocol):
    """Nodes and the tensors they read, as `graph.Graph` has them."""

    def op(
        self, kind: str, inputs: Sequence[str], name: str, /, outputs: int = 1, *, domain: str = "", **attributes: Any
    ) -> tuple[str, ...]: ...

    def constant(self, value: npt.NDArray[Any], /) -> str: ...

    def weight(self, name: str, value: npt.NDArray[Any], /) -> str: ...

    def begin_weight(self, name: str, dtype: np.dtype[Any], shape: Sequence[int], /) -> None: ...

    def append(self, value: npt.NDArray[Any], /) -> None: ...
