"""Checks the libraries and the driver that engine onnx needs on a GPU.

Without them ONNX Runtime only logs a warning, and runs on the CPU. The table has the libraries that the CUDA provider
of onnxruntime-gpu 1.31 is linked with; cuDNN is not one of them.
"""

import ctypes
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from types import ModuleType
from typing import Any

from ...errors import EngineError, MissingDependency

PROVIDER = "CUDAExecutionProvider"
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
Load = Callable[[str], Any]


@dataclass(frozen=True)
class Library:
    """A shared library of the CUDA provider. {cuda} is CUDA's major version, {suffix} that of NVIDIA's wheels."""

    file: str
    title: str
    package: str


LIBRARIES = (
    Library("libcuda.so.1", "the NVIDIA driver", "the driver's installer (not pip)"),
    Library("libcudart.so.{cuda}", "the CUDA runtime", "nvidia-cuda-runtime{suffix}"),
    Library("libcublasLt.so.{cuda}", "cuBLAS", "nvidia-cublas{suffix}"),
    Library("libcublas.so.{cuda}", "cuBLAS", "nvidia-cublas{suffix}"),
    Library("libcurand.so.10", "cuRAND", "nvidia-curand{suffix}"),
)


def gpu_library() -> ModuleType:
    """The module onnxruntime, if it is built for CUDA. Raises MissingDependency."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingDependency(f"onnxruntime is not installed ({error}); install guardpass[cuda]") from None
    module: ModuleType = ort
    if PROVIDER not in module.get_available_providers():
        raise MissingDependency(
            f"device is 'cuda', and onnxruntime {module.__version__} is built without CUDA; `pip uninstall -y "
            "onnxruntime onnxruntime-gpu`, as both own one name, and install guardpass[cuda]"
        )
    return module


def check_machine(ort: ModuleType, load: Load = ctypes.CDLL) -> None:
    """Raises MissingDependency if a library cannot be loaded, EngineError if the driver finds no GPU."""
    built = str(getattr(ort, "cuda_version", None) or "13.0")
    major = int(built.split(".")[0])
    with redirect_stdout(StringIO()):  # it prints missing libraries
        ort.preload_dlls()  # from NVIDIA's wheels, which the dynamic linker does not search
    libraries = [_named(library, major) for library in LIBRARIES]
    missing = [library for library in libraries if not _loads(library.file, load)]
    if missing:
        names = "; ".join(f"{library.file} ({library.title}, from {library.package})" for library in missing)
        raise MissingDependency(
            f"device is 'cuda', and onnxruntime {ort.__version__} for CUDA {built} needs libraries that cannot be "
            f"loaded: {names}; install them"
        )
    driver = load("libcuda.so.1")
    code = driver.cuInit(0)
    if code:
        reason = "no GPU is visible" if code == _NO_DEVICE else "the GPU cannot be used"
        raise EngineError(
            f"device is 'cuda', the NVIDIA driver is installed, and {reason} (cuInit gave {code}); check "
            "`nvidia-smi`, and whether CUDA_VISIBLE_DEVICES or the container hides the GPU"
        )
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    if version.value // 1000 < major:
        raise EngineError(
            f"device is 'cuda', and the driver offers CUDA {version.value // 1000}.{version.value % 1000 // 10}, but "
            f"onnxruntime {ort.__version__} is built for CUDA {built}; update the NVIDIA driver"
        )


def _named(library: Library, major: int) -> Library:
    """The library under its names for a CUDA version. From 13 on, NVIDIA's wheels have no suffix."""
    values = {"cuda": major, "suffix": "" if major >= 13 else f"-cu{major}"}
    return Library(library.file.format(**values), library.title, library.package.format(**values))


def _loads(file: str, load: Load) -> bool:
    try:
        load(file)
    except OSError:
        return False
    return True
