"""CUDA asked for and not there: the error names what is missing, and nothing runs on the CPU instead."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from guardpass import EngineError, Guard, InputError, MissingDependency
from guardpass.engines.onnx.cpu import OnnxEngine
from guardpass.engines.onnx.cuda import CudaEngine
from guardpass.engines.onnx.cuda_check import check_machine, gpu_library
from guardpass.engines.registry import open_engine
from guardpass.format.manifest import Device, Manifest, Quant


def _built(cuda: str | None = "13.0") -> Any:
    """An onnxruntime-gpu, which prints as the real one does."""
    return SimpleNamespace(
        __version__="1.31.1", cuda_version=cuda, preload_dlls=lambda: print("Failed to load libcublas")
    )


def _machine(missing: tuple[str, ...] = (), code: int = 0, offers: int = 13000) -> Any:
    """A loader of shared libraries, without some, and with a driver that says this."""

    def version(out: Any) -> int:
        out._obj.value = offers
        return 0

    def load(file: str) -> Any:
        if file in missing:
            raise OSError(f"{file}: cannot open shared object file: No such file or directory")
        return SimpleNamespace(cuInit=lambda _flags: code, cuDriverGetVersion=version)

    return load


def test_no_onnxruntime_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependency, match=r"onnxruntime is not installed .*; install guardpass\[cuda\]"):
        gpu_library()


def test_the_cpu_wheel_in_its_place() -> None:
    """The one that these tests run on."""
    with pytest.raises(
        MissingDependency, match=r"is built without CUDA; `pip uninstall -y onnxruntime .*guardpass\[cuda\]"
    ):
        gpu_library()


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        (("libcuda.so.1",), r"cannot be loaded: libcuda.so.1 \(the NVIDIA driver, from the driver's installer"),
        (("libcudart.so.13",), r"libcudart.so.13 \(the CUDA runtime, from nvidia-cuda-runtime\)"),
        (("libcurand.so.10",), r"libcurand.so.10 \(cuRAND, from nvidia-curand\)"),
        (
            ("libcublasLt.so.13", "libcublas.so.13"),
            r"libcublasLt.so.13 \(cuBLAS, from nvidia-cublas\); libcublas.so.13 \(cuBLAS, from nvidia-cublas\)",
        ),
    ],
)
def test_libraries_that_cannot_be_loaded_are_named(
    missing: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MissingDependency, match=says) as raised:
        check_machine(_built(), _machine(missing))
    assert str(raised.value).count(".so.") == len(missing)
    assert capsys.readouterr().out == ""


def test_an_older_cuda_has_other_names() -> None:
    with pytest.raises(MissingDependency, match=r"libcublas.so.12 \(cuBLAS, from nvidia-cublas-cu12\)"):
        check_machine(_built("12.8"), _machine(("libcublas.so.12",)))


@pytest.mark.parametrize(
    ("code", "says"),
    [(100, "no GPU is visible .*CUDA_VISIBLE_DEVICES"), (802, r"cannot be used \(cuInit gave 802\)")],
)
def test_a_driver_without_a_gpu(code: int, says: str) -> None:
    with pytest.raises(EngineError, match=says):
        check_machine(_built(), _machine(code=code))


def test_a_driver_that_is_too_old() -> None:
    with pytest.raises(EngineError, match=r"offers CUDA 12.4, but .* built for CUDA 13.0; update the NVIDIA driver"):
        check_machine(_built(), _machine(offers=12040))
    check_machine(_built(), _machine())  # all is there


def _made_for(manifest: Manifest, device: Device, quant: Quant = "fp32") -> Manifest:
    return replace(manifest, engine=replace(manifest.engine, device=device, quant=quant))


@pytest.mark.parametrize(
    ("made_for", "quant", "device", "says"),
    [
        ("cpu", "fp32", "cuda", "device is 'cuda', and this guard was exported for 'cpu' in fp32; .*--device cuda"),
        ("cuda", "bf16", "cpu", "device is 'cpu', and this guard was exported for 'cuda' in bf16; .*--device cpu"),
        ("cuda", "int8", "cpu", "exported for 'cuda' in int8"),
    ],
)
def test_a_guard_runs_where_it_was_exported_for(
    made_for: Device, quant: Quant, device: Device, says: str, two_sided: Path, guard: Guard
) -> None:
    manifest = _made_for(guard.manifest, made_for, quant)
    with pytest.raises(InputError, match=says):
        open_engine(two_sided, manifest, threads=1, max_tokens=500, device=device)


def test_a_cuda_guard_is_never_run_on_the_cpu_unasked(two_sided: Path, guard: Guard) -> None:
    manifest = _made_for(guard.manifest, "cuda")
    for device in (None, "cuda"):
        with pytest.raises(MissingDependency, match="built without CUDA"):
            open_engine(two_sided, manifest, threads=1, max_tokens=500, device=device)  # type: ignore[arg-type]
    asked = open_engine(two_sided, manifest, threads=1, max_tokens=500, device="cpu")
    assert isinstance(asked, OnnxEngine)


def test_a_session_that_is_elsewhere_is_an_error(
    two_sided: Path, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ONNX Runtime does where it cannot load its CUDA provider and no option forbids it."""
    import onnxruntime

    opened = onnxruntime.InferenceSession

    def on_the_cpu(*args: Any, **options: Any) -> Any:
        assert options.pop("enable_fallback") == 0
        return opened(args[0], providers=["CPUExecutionProvider"])

    monkeypatch.setattr("guardpass.engines.onnx.cuda.gpu_library", lambda: onnxruntime)
    monkeypatch.setattr("guardpass.engines.onnx.cuda.check_machine", lambda _ort: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", on_the_cpu)
    with pytest.raises(EngineError, match=r"opened model.onnx on \['CPUExecutionProvider'\], expected CUDA"):
        CudaEngine(two_sided / "model.onnx", guard.manifest)
