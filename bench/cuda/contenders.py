"""The contenders on a GPU, how they run, and the GPU's peaks. So far only the dry run on a CPU has been run."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from guardpass.engines.llamacpp.engine import LlamaCppEngine
from guardpass.engines.onnx.buckets import packs
from guardpass.engines.onnx.cuda import CudaEngine
from guardpass.engines.onnx.cuda_session import CUDA, ON_CPU
from guardpass.errors import Unsupported
from guardpass.export import export_guard
from guardpass.format.integrity import open_guard
from guardpass.format.manifest import Device, Manifest, Quant
from guardpass.plan import Pass

from ..twins import Twin

_WARM = 5  # runs, of which an engine's first captures its graph
_LEAST = 20


@dataclass(frozen=True)
class Machine:
    """Peaks of the machine; None where torch is not installed."""

    name: str
    copy_gb_s: float | None  # read and written
    matmul_tflops: float | None
    dtype: str | None  # of the product


@dataclass(frozen=True)
class Subject:
    """A twin and the files made from it."""

    twin: Twin
    all_layers: int
    quant: str
    width: int  # bytes of a weight
    device: Device
    manifest: Manifest
    checkpoint: Path
    onnx: Path
    gguf: Path


@dataclass(frozen=True)
class Run:
    """Runs a batch, from host memory to scores in host memory. inside: milliseconds of the engine alone, if known."""

    whole: Callable[[], object]
    inside: Callable[[], float] | None = None


Prepare = Callable[[list[Pass]], Run]


@dataclass(frozen=True)
class Contender:
    """An engine to measure. most: its largest batch. Dropping the result of `open` frees its memory."""

    name: str
    most: int
    open: Callable[[Subject], Prepare]


def timed(run: Callable[[], object], seconds: float) -> list[float]:
    """Milliseconds of each run."""
    for _ in range(_WARM):
        run()
    samples: list[float] = []
    ends = time.perf_counter() + seconds
    while len(samples) < _LEAST or time.perf_counter() < ends:
        begun = time.perf_counter()
        run()
        samples.append((time.perf_counter() - begun) * 1e3)
    return samples


def machine(device: Device) -> Machine:
    """Copies of a gigabyte and products of 8192 x 8192 on a GPU, smaller ones on a CPU; the best of several."""
    try:
        import torch
    except ImportError:
        return Machine("unknown: there is no torch", None, None, None)
    on_gpu = device == "cuda"
    size, side, dtype = (1 << 30, 8192, torch.bfloat16) if on_gpu else (1 << 24, 512, torch.float32)
    one, other = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    wait: Callable[[], object] = torch.cuda.synchronize if on_gpu else int

    def best(run: Callable[[], object]) -> float:
        return min(timed(lambda: (run(), wait()), 0.5)) / 1e3

    copied, multiplied = best(lambda: one.copy_(other)), best(lambda: torch.mm(a, b))
    name = torch.cuda.get_device_name() if on_gpu else "CPU, a dry run"
    return Machine(name, 2 * size / copied / 1e9, 2 * side**3 / multiplied / 1e12, str(dtype))


def _onnx(subject: Subject) -> Prepare:
    """guardpass through ONNX Runtime, in captured graphs."""
    provider = CUDA if subject.device == "cuda" else ON_CPU
    engine = CudaEngine(subject.onnx / "model.onnx", subject.manifest, provider=provider)

    def prepare(passes: list[Pass]) -> Run:
        parts = packs([request.tokens.size for request in passes])
        shape = parts[0][0] if len(parts) == 1 else None
        inside = (lambda: engine.replay(shape) * 1e3) if shape else None
        return Run(partial(engine.run_batch, passes), inside)

    return prepare


def _llama_cpp(subject: Subject) -> Prepare:
    """guardpass through llama.cpp: one pass at a time."""
    if not subject.gguf.exists():
        twin = subject.twin
        quant: Quant = "bf16" if subject.device == "cuda" else "f32"
        export_guard(
            subject.checkpoint,
            subject.gguf,
            engine="llamacpp",
            quant=quant,
            family=twin.family,
            date=twin.date,
            gate=False,
        )
    manifest, model = open_guard(subject.gguf, verify=False), subject.gguf / "model.gguf"
    engine = LlamaCppEngine(model, manifest, threads=None, max_tokens=2048, device=subject.device)
    return lambda passes: Run(partial(engine.run, passes[0]))


def _transformers(subject: Subject, *, captured: bool) -> Prepare:
    """transformers' forward pass with PyTorch's own attention, on static shapes; captured in a CUDA graph or not."""
    import torch

    from ..reference import load_reference

    on_gpu = subject.device == "cuda"
    if captured and not on_gpu:
        raise Unsupported("a CUDA graph needs --device cuda")
    model = load_reference(subject.checkpoint, torch.bfloat16 if on_gpu else torch.float32).to(subject.device)

    def prepare(passes: list[Pass]) -> Run:
        host = torch.tensor([request.tokens[0].tolist() for request in passes])
        ids = host.to(subject.device)

        def forward() -> Any:
            with torch.inference_mode():
                return model(ids, logits_to_keep=1, use_cache=False).logits[:, -1, :8]

        if not captured:
            return Run(lambda: (ids.copy_(host), forward().cpu()))
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(side):  # what is lazily allocated is there before the capture
            for _ in range(3):
                forward()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            scores = forward()

        def replay() -> object:
            ids.copy_(host)
            graph.replay()
            return scores.cpu()

        return Run(replay)

    return prepare


CONTENDERS: Sequence[Contender] = (
    Contender("guardpass, onnx", sys.maxsize, _onnx),
    Contender("guardpass, llama.cpp", 1, _llama_cpp),
    Contender("transformers", sys.maxsize, partial(_transformers, captured=False)),
    Contender("transformers, CUDA graph", sys.maxsize, partial(_transformers, captured=True)),
)
