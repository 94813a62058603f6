"""Engine onnx on a GPU: pads passes to a table of shapes, captures each shape once as a CUDA graph, and replays it.

Shapes of one pass are captured when the guard is opened, the others at their first use, because a capture takes as long
as three passes. The inputs and scores of a shape keep their addresses on the GPU, as a graph has fixed addresses.

Not yet run on a GPU: the tests run everything but the capture on the CPU.
"""

import weakref
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from ...errors import EngineError
from ...format.manifest import Manifest
from ...plan import Pass
from ..base import EngineOptions
from ..single_thread import SingleThread
from .batching import Arrays, padded
from .buckets import BATCHES, BUDGET, SHAPES, Shape, length_of, packs
from .cuda_check import PROVIDER, check_machine, gpu_library
from .cuda_session import CUDA, Opened, Provider

_THREAD = SingleThread("guardpass cuda")
_MULTIPLE = 16  # a pass without a shape is padded to a multiple of this; fused attention requires 8


class CudaEngine:
    """Runs model.onnx of a guard exported for CUDA. One thread of the process runs the passes of all guards."""

    requests = BATCHES[-1]  # limit of one batch
    tokens = BUDGET  # limit of one batch

    def __init__(self, model: Path, manifest: Manifest, *, provider: Provider = CUDA) -> None:
        """Raises MissingDependency, EngineError."""
        ort = gpu_library() if provider.name == PROVIDER else import_module("onnxruntime")
        if provider.name == PROVIDER:
            check_machine(ort)
        slots = max(len(mode.tree.slots) for mode in manifest.modes.values())
        self._slots = slots
        self._columns = len(manifest.columns)
        self._opened = _THREAD.run(partial(Opened, ort, model, provider, slots, self._columns))
        # Freeing GPU memory needs the same thread. At exit that thread has ended, and the driver frees the memory.
        weakref.finalize(self, _THREAD.post, self._opened.close).atexit = False
        if provider.name == PROVIDER:
            baked = len(manifest.prefix.tokens)
            for shape in (shape for shape in SHAPES if shape.batch == 1):
                _THREAD.run(partial(self._opened.run, shape, _blank(shape, slots, baked)))

    @classmethod
    def open(cls, model: Path, manifest: Manifest, _: EngineOptions) -> Self:
        """Open the model of a guard. Raises the errors of the constructor."""
        return cls(model, manifest)

    def run(self, request: Pass) -> npt.NDArray[np.float32]:
        """Scores [1, S, V']. Raises EngineError."""
        return self.run_batch([request])[0]

    def run_batch(self, requests: Sequence[Pass]) -> list[npt.NDArray[np.float32]]:
        """Scores [1, S, V'] of each pass. A batch changes them by rounding alone.

        Raises EngineError, for all of them.
        """
        results: dict[int, npt.NDArray[np.float32]] = {}
        for shape, indices in packs([request.tokens.size for request in requests]):
            group = [requests[index] for index in indices]
            total = group[0].tokens.size
            batch, length = (shape.batch, shape.length) if shape else (1, total + -total % _MULTIPLE)
            feeds = padded(group, batch, length, self._slots)
            scores = _THREAD.run(partial(self._opened.run, shape, feeds))
            expected = (batch, self._slots, self._columns)
            if scores.shape != expected:
                raise EngineError(
                    f"the model gave scores of shape {scores.shape}, expected {expected}; export it again"
                )
            results |= {index: scores[row : row + 1, : requests[index].slots.size] for row, index in enumerate(indices)}
        return [results[index] for index in range(len(requests))]

    def replay(self, shape: Shape) -> float:
        """Seconds of ONNX Runtime alone, for benchmarks: runs a bound shape again on its present inputs."""
        return _THREAD.run(partial(self._opened.replay, shape))

    @staticmethod
    def alike(tokens: int) -> int | None:
        """The batch key: the padded length; None for a pass that always runs alone."""
        return length_of(tokens)


def _blank(shape: Shape, slots: int, baked: int) -> Arrays:
    """Blank inputs of a shape: every row sees itself alone."""
    empty = np.zeros((1, 1), np.int64)
    blank = Pass(empty, empty, empty, (), baked, np.ones((1, 1), np.bool_))
    return padded([blank] * shape.batch, shape.batch, shape.length, slots)
