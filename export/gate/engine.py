"""The engine that runs the guard for the gate."""

import ctypes
from pathlib import Path

from guardpass.engines.base import Engine
from guardpass.engines.registry import open_engine
from guardpass.format.manifest import Device, Manifest

from ..to_onnx.cuda_emulation import OnCpu
from ..to_onnx.write import MODEL


def open_gate_engine(directory: Path, manifest: Manifest, longest: int) -> tuple[Engine, Device]:
    """An engine for passes of up to `longest` tokens, and the device it runs on.

    A guard for CUDA runs on the GPU where there is one, else on the CPU, where each operator of a 16-bit graph rounds
    its results as it does on a GPU.

    Raises EngineError where the model cannot be opened, MissingDependency where a GPU is there and its libraries not.
    """
    if manifest.engine.device == "cpu" or _gpu():
        device = manifest.engine.device
        return open_engine(directory, manifest, threads=None, max_tokens=longest, device=device), device
    return OnCpu(directory / MODEL, len(manifest.columns)), "cpu"


def _gpu() -> bool:
    """Whether onnxruntime is built for CUDA and the driver reports a GPU."""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return False
    try:
        return bool(ctypes.CDLL("libcuda.so.1").cuInit(0) == 0)
    except OSError:
        return False
