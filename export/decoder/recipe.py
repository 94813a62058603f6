"""What ONNX and native share of a precision: a recipe, and the layer that it stores."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from guardpass.errors import CheckpointError
from guardpass.format.manifest import Quant

from ..checkpoint.files import Array
from .batching import SINGLE, Layout
from .gptq import Seen

Dtype = np.dtype[Any]
FLOAT: Dtype = np.dtype(np.float32)


@dataclass(frozen=True)
class Layer:
    """A linear layer to write: its weights [N, K], streamed as float32 chunks of rows in order, and its input."""

    name: str
    inputs: str  # the name of its input
    n: int
    k: int
    stream: Iterable[tuple[slice, Array]]  # which rows, and their weights
    seen: Seen  # what calibration shows of its input
    uneven: bool = False  # whether rows of its input differ much in size


Place = Literal["residual", "heads", "ffn"]
ALL: frozenset[Place] = frozenset({"residual", "heads", "ffn"})
T = TypeVar("T")  # the writer: a Graph, or a Packed file


@dataclass(frozen=True)
class Recipe(Generic[T]):
    """How a guard's layers are stored and run."""

    name: Quant
    linear: Callable[[T, Layer], str]
    rotates: frozenset[Place] = frozenset()  # activations that are rotated before they are quantized
    block: int = 64  # channels that a rotation mixes, at most
    balanced: bool = False  # whether channels of values and of the MLP are scaled alike, see `Ops.linear`
    calibrated: bool = False  # whether `linear` looks at what calibration shows
    dtype: Dtype = FLOAT  # of activations, norms, and baked keys and values
    layout: Layout = SINGLE


def narrow(data: Array, dtype: Dtype, name: str) -> npt.NDArray[Any]:
    """Values in another floating-point type. Raises CheckpointError where one does not fit."""
    if dtype == data.dtype:
        return data
    with np.errstate(over="ignore"):
        narrowed = data.astype(dtype)
    if not np.isfinite(narrowed).all():
        raise CheckpointError(
            f"{name} holds values beyond {dtype}; export with --quant fp32, or for --device cuda with bf16"
        )
    return narrowed


def symmetric(weights: Array) -> tuple[npt.NDArray[np.int8], Array]:
    """Weights [N, K] as integers from -127 to 127, and the scales [N] of their rows."""
    scales: Array = np.maximum(np.abs(weights).max(axis=1), 1e-30) / 127
    levels = weights * (1 / scales)[:, None]
    return np.rint(levels, out=levels).astype(np.int8), scales
