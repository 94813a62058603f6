"""Engines run passes; which one, the manifest says."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..format.manifest import Device, Manifest
from ..plan import Pass
from ..stop import Stop

_ON_BOTH = ("fp32", "fp16")  # what both of ONNX Runtime's providers compute with


class Engine(Protocol):
    """Anything that turns a pass into scores."""

    def run(self, request: Pass) -> npt.NDArray[np.float32]:
        """Scores [1, S, V'] of every label at every slot. Raises EngineError."""


@runtime_checkable
class Stoppable(Protocol):
    """An engine whose passes can be ended while they run."""

    def run_until(self, request: Pass, stop: Stop) -> npt.NDArray[np.float32]:
        """`run`; raises what `stop` was given soon after it was."""


@runtime_checkable
class Batching(Protocol):
    """An engine that gains from running passes together."""

    requests: int  # at most, of those run together
    tokens: int  # at most, of all of them

    def run_batch(self, requests: Sequence[Pass]) -> list[npt.NDArray[np.float32]]:
        """Scores [1, S, V'] of each, the same but for rounding whatever stands beside it. Raises EngineError."""

    def alike(self, tokens: int) -> int | None:
        """What requests of about so many tokens agree in where they gain from each other; None: they do not."""


@dataclass(frozen=True)
class Grown:
    """Scores [1, S, V'] of a text that grew, and how many of its span's tokens were not run again."""

    scores: npt.NDArray[np.float32]
    reused: int


class SessionEngine(Protocol):
    """An engine for one text that grows, which keeps keys and values of what did not change."""

    def run(self, request: Pass) -> Grown:
        """Raises EngineError."""

    def close(self) -> object:
        """Give its memory back."""


@runtime_checkable
class Incremental(Protocol):
    """An engine that can make engines for texts that grow."""

    def session(self) -> SessionEngine:
        """Raises EngineError."""


def run_pass(engine: Engine, request: Pass, stop: Stop | None) -> npt.NDArray[np.float32]:
    """Scores of a pass that may be stopped: while it runs where the engine allows, else before it runs."""
    if stop is None:
        return engine.run(request)
    stop.check()
    return engine.run_until(request, stop) if isinstance(engine, Stoppable) else engine.run(request)


def open_engine(
    directory: Path,
    manifest: Manifest,
    *,
    threads: int | None,
    max_tokens: int,
    device: Device | None,
    in_memory: bool = False,
) -> Engine:
    """The engine that guard.json names, with the model opened for passes of up to `max_tokens`, prefix included.

    A guard runs where it was exported for, or not at all; but for GGUF guards, which run on both, and ONNX guards for
    "cuda" in fp32 or fp16, which also run on the "cpu" (slower than those exported for it) if they are told to.
    """
    # Imported here, so that importing guardpass imports none of them.
    if manifest.engine.name == "llamacpp":
        from .llamacpp.engine import LlamaCppEngine

        chosen = device or manifest.engine.device
        return LlamaCppEngine(directory / "model.gguf", manifest, threads=threads, max_tokens=max_tokens, device=chosen)
    made_for, quant = manifest.engine.device, manifest.engine.quant
    chosen = device or made_for
    if chosen != made_for and not (made_for == "cuda" and quant in _ON_BOTH):
        raise InputError(
            f"device is {chosen!r}, and this guard was exported for {made_for!r} in {quant}; "
            f"export it with --device {chosen}"
        )
    if manifest.engine.name == "native":
        from .native import NativeEngine

        packed = directory / "model.packed"
        return NativeEngine(packed, manifest, threads=threads, max_tokens=max_tokens, in_memory=in_memory)
    if chosen == "cuda":
        from .onnx.cuda import CudaEngine

        return CudaEngine(directory / "model.onnx", manifest)
    from .onnx.cpu import OnnxEngine

    return OnnxEngine(directory / "model.onnx", manifest, threads=threads, in_memory=in_memory)
