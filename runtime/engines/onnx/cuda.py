"""ONNX Runtime on a GPU: passes padded to a table of shapes, each captured once as a CUDA graph and then replayed.

A shape is captured at its first use, those of one pass when the guard is opened: a capture is three passes, and the
whole table would keep a single check waiting. Inputs and scores of a shape stay where they are on the GPU, as a graph
reads and writes where it did when it was captured.

Not yet run on a GPU: the tests run all of it but the capture on the CPU.
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
_EVEN = 16  # what a pass of no shape is padded to a multiple of: fused attention takes multiples of 8


class CudaEngine:
    """Runs model.onnx of a guard exported for CUDA. Passes of all guards take turns, in one thread of the process."""

    requests, tokens = BATCHES[-1], BUDGET  # at most, of those run together

    def __init__(self, model: Path, manifest: Manifest, *, provider: Provider = CUDA) -> None:
        """Raises MissingDependency, EngineError."""
        ort = gpu_library() if provider.name == PROVIDER else import_module("onnxruntime")
        if provider.name == PROVIDER:
            check_machine(ort)
        slots = max(len(mode.tree.slots) for mode in manifest.modes.values())
        self._slots, self._columns = slots, len(manifest.columns)
        self._opened = _THREAD.run(partial(Opened, ort, model, provider, slots, self._columns))
        # In the lane too, as it frees what is on the GPU; not when the process ends, which the lane does not outlive.
        weakref.finalize(self, _THREAD.post, self._opened.close).atexit = False
        if provider.name == PROVIDER:
            baked = len(manifest.prefix.tokens)
            for shape in (shape for shape in SHAPES if shape.batch == 1):
                _THREAD.run(partial(self._opened.run, shape, _blank(shape, slots, baked)))

    @classmethod
    def open(cls, model: Path, manifest: Manifest, _: EngineOptions) -> Self:
        """Open a guard's model. Raises what the constructor does."""
        return cls(model, manifest)

    def run(self, request: Pass) -> npt.NDArray[np.float32]:
        """Scores [1, S, V']. Raises EngineError."""
        return self.run_batch([request])[0]

    def run_batch(self, requests: Sequence[Pass]) -> list[npt.NDArray[np.float32]]:
        """Scores [1, S, V'] of each. What stands beside a pass changes its scores by no more than rounding does.

        Raises EngineError; all of them fail then.
        """
        found: dict[int, npt.NDArray[np.float32]] = {}
        for shape, indices in packs([request.tokens.size for request in requests]):
            these = [requests[index] for index in indices]
            own = these[0].tokens.size
            batch, length = (shape.batch, shape.length) if shape else (1, own + -own % _EVEN)
            feeds = padded(these, batch, length, self._slots)
            scores = _THREAD.run(partial(self._opened.run, shape, feeds))
            expected = (batch, self._slots, self._columns)
            if scores.shape != expected:
                raise EngineError(
                    f"the model gave scores of shape {scores.shape}, expected {expected}; export it again"
                )
            found |= {index: scores[row : row + 1, : requests[index].slots.size] for row, index in enumerate(indices)}
        return [found[index] for index in range(len(requests))]

    def replay(self, shape: Shape) -> float:
        """Seconds of ONNX Runtime alone, on a shape that was run before, with what its memory holds: for benchmarks."""
        return _THREAD.run(partial(self._opened.replay, shape))

    @staticmethod
    def alike(tokens: int) -> int | None:
        """What requests of about so many tokens have to agree in to gain from running together; None: they never do."""
        return length_of(tokens)


def _blank(shape: Shape, slots: int, baked: int) -> Arrays:
    """Inputs of a shape that say nothing: every row sees itself."""
    empty = np.zeros((1, 1), np.int64)
    nothing = Pass(empty, empty, empty, (), baked, np.ones((1, 1), np.bool_))
    return padded([nothing] * shape.batch, shape.batch, shape.length, slots)
