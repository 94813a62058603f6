"""A model opened by ONNX Runtime for passes at fixed shapes, whose inputs and scores stay where they are.

Not yet run on a GPU: the tests run all of it but the capture on the CPU.
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
    """Where ONNX Runtime runs a guard, and with what."""

    name: str
    memory: str  # what OrtValue calls it
    options: dict[str, str] = field(default_factory=dict)
    entries: dict[str, str] = field(default_factory=dict)  # of the session


CUDA = Provider(
    PROVIDER,
    "cuda",
    # TF32 would make fp32 a format of 10 bits; arenas that double would hold the weights twice.
    {"enable_cuda_graph": "1", "use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"},
    # A node that CUDA does not take is an error when the guard is opened, never a copy to the CPU and back.
    {"session.disable_cpu_ep_fallback": "1", "session.use_device_allocator_for_initializers": "1"},
)
# The same way through the same code, for tests and dry runs; no graph is captured.
ON_CPU = Provider("CPUExecutionProvider", "cpu")


@dataclass(frozen=True)
class _Bound:
    """A shape's own memory, and how it is run."""

    inputs: dict[str, Any]
    scores: Any
    binding: Any
    options: Any


class Opened:
    """A session and the shapes bound so far. Only the lane's thread may use it."""

    def __init__(self, ort: ModuleType, model: Path, provider: Provider, slots: int, columns: int) -> None:
        self._ort, self._provider, self._slots, self._columns = ort, provider, slots, columns
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.enable_mem_pattern = False  # a plan of memory for each shape, which a captured graph has no use for
        for key, value in provider.entries.items():
            options.add_session_config_entry(key, value)
        try:
            # By default the Python class opens and runs on the CPU what fails elsewhere.
            self._session = ort.InferenceSession(
                str(model), options, providers=[(provider.name, provider.options)], enable_fallback=0
            )
        except Exception as error:  # ONNX Runtime's exceptions share no public base
            version = ort.__version__
            raise EngineError(f"onnxruntime {version} cannot open {model.name} on {provider.name}: {error}") from None
        if self._session.get_providers()[0] != provider.name:
            raise EngineError(
                f"onnxruntime {ort.__version__} opened {model.name} on {self._session.get_providers()}, expected "
                f"{provider.name}; nothing is run elsewhere than asked for"
            )
        self._bound: dict[Shape, _Bound] = {}

    def run(self, shape: Shape | None, feeds: Arrays) -> npt.NDArray[np.float32]:
        """Scores [B, S, V'] of padded passes; shape None: not captured. Raises EngineError."""
        try:
            if shape is None:
                (scores,) = self._session.run(["scores"], feeds, self._options(_EAGER))
                result: npt.NDArray[np.float32] = scores
                return result
            bound = self._bound.get(shape) or self._bind(shape, feeds)
            for name, value in bound.inputs.items():
                value.update_inplace(feeds[name])  # returns when it is there
            self.replay(shape)
            return np.array(bound.scores.numpy())
        except Exception as error:
            size = feeds["tokens"].shape
            raise EngineError(f"onnxruntime failed on passes of {size[0]} x {size[1]} tokens: {error}") from None

    def replay(self, shape: Shape) -> float:
        """Run a bound shape on what its memory holds; the seconds it took."""
        bound, begun = self._bound[shape], time.perf_counter()
        self._session.run_with_iobinding(bound.binding, bound.options)
        return time.perf_counter() - begun

    def close(self) -> None:
        """Give the memory back."""
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
        # Identifiers count from 1: 0 is ONNX Runtime's own.
        bound = _Bound(inputs, scores, binding, self._options(str(SHAPES.index(shape) + 1)))
        self._bound[shape] = bound
        return bound

    def _options(self, graph: str) -> Any:
        options = self._ort.RunOptions()
        options.log_severity_level = 4
        options.add_run_config_entry("gpu_graph_id", graph)
        return options
