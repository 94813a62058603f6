"""Engine onnx on the CPU."""

from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ...errors import EngineError, MissingDependency
from ...forks import leak, renewed_in_child
from ...format.integrity import Mapped
from ...format.manifest import Manifest
from ...plan import Pass
from ...stop import StopToken
from ..base import EngineOptions
from ..hardware import saturates, usable_cores


class OnnxEngine:
    """Runs model.onnx. Several threads may run passes concurrently."""

    def __init__(self, model: Path, manifest: Manifest, *, threads: int | None, in_memory: bool = False) -> None:
        """in_memory: read the weights. Else ONNX Runtime maps them, and later writes to the file change its scores."""
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise MissingDependency(f"onnxruntime is not installed ({error}); install guardpass[cpu]") from None
        self._ort = ort
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.inter_op_num_threads = 1
        # ONNX Runtime's lines on stderr only repeat its exceptions.
        options.log_severity_level = 4
        if saturates():
            # Such a CPU adds u8 x s8 products in saturating 16 bits; ORT's u8 x u8 path is slower and exact.
            options.add_session_config_entry("session.x64quantprecision", "1")
        weights = model.with_name(model.name + ".data")
        self._mapped = None if in_memory or not weights.exists() else Mapped(weights)
        try:
            if in_memory and weights.exists():
                data = weights.read_bytes()
                options.add_external_initializers_from_files_in_memory([weights.name], [data], [len(data)])
            self._session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no public base
            raise EngineError(f"onnxruntime {ort.__version__} cannot open {model.name}: {error}") from None
        self._columns = len(manifest.columns)
        renewed_in_child(self)

    def after_fork(self) -> None:
        """In a forked process: keep the session, whose destructor would wait for missing threads."""
        leak(self._session)

    @classmethod
    def open(cls, model: Path, manifest: Manifest, options: EngineOptions) -> Self:
        """Open the model of a guard. Raises the errors of the constructor."""
        return cls(model, manifest, threads=options.threads, in_memory=options.in_memory)

    def run(self, request: Pass) -> npt.NDArray[np.float32]:
        """Scores [1, S, V']. Raises EngineError."""
        return self._run(request, None)

    def run_until(self, request: Pass, stop: StopToken) -> npt.NDArray[np.float32]:
        """Like `run`. ONNX Runtime polls for a stop between operators."""
        options = self._ort.RunOptions()
        options.log_severity_level = 4
        with stop.ends(partial(setattr, options, "terminate", True)):
            return self._run(request, options)

    def _run(self, request: Pass, options: Any) -> npt.NDArray[np.float32]:
        feeds = {
            "tokens": request.tokens,
            "positions": request.positions,
            "mask": request.mask,
            "slots": request.slots,
        }
        try:
            (scores,) = self._session.run(["scores"], feeds, options)
        except Exception as error:
            raise EngineError(f"onnxruntime failed on a pass of {request.tokens.size} tokens: {error}") from None
        if self._mapped is not None:
            self._mapped.check()
        expected = (1, request.slots.shape[1], self._columns)
        if scores.shape != expected:
            raise EngineError(f"the model gave scores of shape {scores.shape}, expected {expected}; export it again")
        result: npt.NDArray[np.float32] = scores
        return result
