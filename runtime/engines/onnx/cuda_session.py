"""An ONNX Runtime session for passes of fixed shapes, whose inputs and scores have fixed addresses.

Not yet run on a GPU: the tests run everything but the capture on the CPU.
"""

import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import EngineError
from .batching import Arrays
from .buckets import SHAPES, Shape
from .cuda_check import PROVIDER

_EAGER = "-1"  # gpu_graph_id: neither capture nor replay
_TYPES = {"tokens": np.int64, "positions": np.int64, "mask": np.bool_, "slots": np.int64}


@dataclass(frozen=True)
class Provider:
    """An execution provider of ONNX Runtime, and its options."""

    name: str
    memory: str  # its name in OrtValue
    options: dict[str, str] = field(default_factory=dict)
    entries: dict[str, str] = field(default_factory=dict)  # options of the session


CUDA = Provider(
    PROVIDER,
    "cuda",
    # TF32 has 10 bits of mantissa. An arena that doubles would hold the weights twice.
    {"enable_cuda_graph": "1", "use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"},
    # A node without a CUDA kernel is an error at open, not a copy to the CPU and back.
    {"session.disable_cpu_ep_fallback": "1", "session.use_device_allocator_for_initializers": "1"},
)
# The same code path without capture, for tests and dry runs.
ON_CPU = Provider("CPUExecutionProvider", "cpu")


@dataclass(frozen=True)
class _Bound:
    """The memory and the run options of a shape."""

    inputs: dict[str, Any]
    scores: Any
    binding: Any
    options: Any


class Opened:
    """A session and the shapes bound so far. Only the thread of engine onnx on CUDA may use it."""

    def __init__(self, ort: ModuleType, model: Path, provider: Provider, slots: int, columns: int) -> None:
        self._ort = ort
        self._provider = provider
        self._slots = slots
        self._columns = columns
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.enable_mem_pattern = False  # a captured graph makes no use of memory patterns
        for key, value in provider.entries.items():
            options.add_session_config_entry(key, value)
        try:
            # By default the Python class falls back to the CPU.
            self._session = ort.InferenceSession(
                str(model), options, providers=[(provider.name, provider.options)], enable_fallback=0
            )
        except Exception as error:  # ONNX Runtime's exceptions share no public base
            version = ort.__version__
            raise EngineError(f"onnxruntime {version} cannot open {model.name} on {provider.name}: {error}") from None
        if self._session.get_providers()[0] != provider.name:
            raise EngineError(
                f"onnxruntime {ort.__version__} opened {model.name} on {self._session.get_providers()}, expected "
                f"{provider.name}; install an onnxruntime with this provider"
            )
        self._bound: dict[Shape, _Bound] = {}

    def run(self, shape: Shape | None, feeds: Arrays) -> npt.NDArray[np.float32]:
        """Scores [B, S, V'] of padded passes. shape None: run without capture. Raises EngineError."""
        try:
            if shape is None:
                (scores,) = self._session.run(["scores"], feeds, self._options(_EAGER))
                result: npt.NDArray[np.float32] = scores
                return result
            bound = self._bound.get(shape) or self._bind(shape, feeds)
            for name, value in bound.inputs.items():
                value.update_inplace(feeds[name])  # returns after the copy
            self.replay(shape)
            return np.array(bound.scores.numpy())
        except Exception as error:
            size = feeds["tokens"].shape
            raise EngineError(f"onnxruntime failed on passes of {size[0]} x {size[1]} tokens: {error}") from None

    def replay(self, shape: Shape) -> float:
        """Run a bound shape on its present inputs; returns the seconds it took."""
        bound, begun = self._bound[shape], time.perf_counter()
        self._session.run_with_iobinding(bound.binding, bound.options)
        return time.perf_counter() - begun

    def close(self) -> None:
        """Free the session and its memory."""
        self._bound.clear()
        del self._session

    def _bind(self, shape: Shape, feeds: Arrays) -> _Bound:
        empty = partial(self._ort.OrtValue.ortvalue_from_shape_and_type, device_type=self._provider.memory)
        inputs = {name: empty(feeds[name].shape, kind) for name, kind in _TYPES.items()}
        scores = empty((shape.batch, self._slots, self._columns), np.float32)
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output("scores", scores)
        # Identifiers start at 1; ONNX Runtime uses 0 itself.
        bound = _Bound(inputs, scores, binding, self._options(str(SHAPES.index(shape) + 1)))
        self._bound[shape] = bound
        return bound

    def _options(self, graph: str) -> Any:
        options = self._ort.RunOptions()
        options.log_severity_level = 4
        options.add_run_config_entry("gpu_graph_id", graph)
        return options
