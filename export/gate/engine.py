"""What runs the guard for the gate."""

import ctypes
from pathlib import Path

from guardpass.engines import Engine, open_engine
from guardpass.manifest import Device, Manifest

from ..to_onnx.cuda_emulation import OnCpu


def opened(directory: Path, manifest: Manifest, longest: int) -> tuple[Engine, Device]:
    """An engine for passes of up to `longest` tokens, and where it runs: on the GPU where the guard is for one and one
    is there, else on the CPU, where a 16-bit graph's operators round what they give as they do on a GPU.

    Raises EngineError where the model cannot be opened, MissingDependency where a GPU is there and its libraries not.
    """
    if manifest.engine.device == "cpu" or _gpu():
        device = manifest.engine.device
        return open_engine(directory, manifest, threads=None, max_tokens=longest, device=device), device
    return OnCpu(directory / "model.onnx", len(manifest.columns)), "cpu"


def _gpu() -> bool:
    """Whether onnxruntime is built for CUDA and the driver has a GPU."""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return False
    try:
        return bool(ctypes.CDLL("libcuda.so.1").cuInit(0) == 0)
    except OSError:
        return False
