"""Engines run passes; which one, the manifest says."""

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..manifest import Device, Manifest
from ..passes import Pass


class Engine(Protocol):
    """Anything that turns a pass into scores."""

    def run(self, request: Pass) -> npt.NDArray[np.float32]:
        """Scores [1, S, V'] of every label at every slot. Raises EngineError."""


def open_engine(
    directory: Path, manifest: Manifest, *, threads: int | None, max_tokens: int, device: Device | None
) -> Engine:
    """The engine that guard.json names, with the model opened for passes of up to `max_tokens`, prefix included."""
    # Imported here, so that importing guardpass imports none of them.
    if manifest.engine.name == "llamacpp":
        from .llamacpp import LlamaCppEngine

        chosen = device or manifest.engine.device
        return LlamaCppEngine(directory / "model.gguf", manifest, threads=threads, max_tokens=max_tokens, device=chosen)
    if device not in (None, manifest.engine.device):
        raise InputError(f"device is {device!r}, and this guard was exported for {manifest.engine.device!r}")
    if manifest.engine.name == "native":
        from .native import NativeEngine

        return NativeEngine(directory / "model.packed", manifest, threads=threads)
    from .onnx import OnnxEngine

    return OnnxEngine(directory / "model.onnx", manifest, threads=threads)
