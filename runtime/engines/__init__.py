"""Engines run passes; which one, the manifest says."""

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..manifest import Manifest
from ..passes import Pass


class Engine(Protocol):
    """Anything that turns a pass into scores."""

    def run(self, request: Pass) -> npt.NDArray[np.float32]:
        """Scores [1, S, V'] of every label at every slot. Raises EngineError."""


def open_engine(directory: Path, manifest: Manifest, *, threads: int | None) -> Engine:
    """The engine that guard.json names, with the model opened."""
    from .onnx import OnnxEngine  # so that importing guardpass does not import onnxruntime

    return OnnxEngine(directory / "model.onnx", manifest, threads=threads)
