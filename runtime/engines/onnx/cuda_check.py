"""What engine onnx needs on a GPU, asked for by name before ONNX Runtime would go on without it.

ONNX Runtime only logs that its CUDA provider could not be loaded, and then runs on the CPU. The libraries are those
that the provider of onnxruntime-gpu 1.31 is linked with; cuDNN is not among them.
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
    """A shared library the provider is linked with; {cuda} stands for CUDA's major version."""

    file: str
    what: str
    brings: str


LIBRARIES = (
    Library("libcuda.so.1", "the NVIDIA driver", "the driver's installer (not pip)"),
    Library("libcudart.so.{cuda}", "the CUDA runtime", "nvidia-cuda-runtime{suffix}"),
    Library("libcublasLt.so.{cuda}", "cuBLAS", "nvidia-cublas{suffix}"),
    Library("libcublas.so.{cuda}", "cuBLAS", "nvidia-cublas{suffix}"),
    Library("libcurand.so.10", "cuRAND", "nvidia-curand{suffix}"),
)


def gpu_library() -> ModuleType:
    """The module onnxruntime, of a build for CUDA. Raises MissingDependency."""
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
    """Raises MissingDependency for libraries that cannot be loaded, EngineError for a driver that finds no GPU."""
    built = str(getattr(ort, "cuda_version", None) or "13.0")
    major = int(built.split(".")[0])
    with redirect_stdout(StringIO()):  # it prints what it does not find
        ort.preload_dlls()  # of NVIDIA's wheels, which the linker does not look into
    missing = [each for each in (_named(each, major) for each in LIBRARIES) if not _loads(each.file, load)]
    if missing:
        found = "; ".join(f"{each.file} ({each.what}, from {each.brings})" for each in missing)
        raise MissingDependency(
            f"device is 'cuda', and what onnxruntime {ort.__version__} for CUDA {built} is linked with cannot be "
            f"loaded: {found}"
        )
    driver = load("libcuda.so.1")
    code = driver.cuInit(0)
    if code:
        why = "no GPU is visible" if code == _NO_DEVICE else "it cannot be used"
        raise EngineError(
            f"device is 'cuda', the NVIDIA driver is there, and {why} (cuInit gave {code}); see what `nvidia-smi` "
            "says, and whether CUDA_VISIBLE_DEVICES or the container hides it"
        )
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    if version.value // 1000 < major:
        raise EngineError(
            f"device is 'cuda', and the driver offers CUDA {version.value // 1000}.{version.value % 1000 // 10}, but "
            f"onnxruntime {ort.__version__} is built for CUDA {built}; update the NVIDIA driver"
        )


def _named(library: Library, major: int) -> Library:
    """With this CUDA's names: from 13 on NVIDIA's wheels have none in theirs."""
    values = {"cuda": major, "suffix": "" if major >= 13 else f"-cu{major}"}
    return Library(library.file.format(**values), library.what, library.brings.format(**values))


def _loads(file: str, load: Load) -> bool:
    try:
        load(file)
    except OSError:
        return False
    return True
