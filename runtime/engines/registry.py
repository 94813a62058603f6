"""Opens the engine that a guard names."""

from importlib import import_module
from pathlib import Path
from typing import cast

from ..errors import InputError
from ..format.engines import ENGINES
from ..format.manifest import Device, Manifest
from .base import Engine, EngineOptions, Opener

_ON_BOTH = ("fp32", "fp16")  # precisions of both ONNX Runtime providers


def open_engine(
    directory: Path,
    manifest: Manifest,
    *,
    threads: int | None,
    max_tokens: int,
    device: Device | None,
    in_memory: bool = False,
) -> Engine:
    """Open the engine that guard.json names, for passes of up to `max_tokens` tokens, prefix included.

    A guard runs on the device that it was exported for. On request, GGUF guards run on both devices, and ONNX guards
    for "cuda" in fp32 or fp16 run on the "cpu", slower than guards exported for it.

    Raises InputError for a device that the guard does not run on, MissingDependency, GuardError, EngineError.
    """
    engine = manifest.engine
    chosen = device or engine.device
    movable = engine.name == "llamacpp" or (engine.device == "cuda" and engine.quant in _ON_BOTH)
    if chosen != engine.device and not movable:
        raise InputError(
            f"device is {chosen!r}, and this guard was exported for {engine.device!r} in {engine.quant}; "
            f"export it with --device {chosen}"
        )
    spec = ENGINES[engine.name]
    # Imported here, so that importing guardpass imports no engine.
    module, _, name = spec.opens[chosen].partition(":")
    opener = cast(Opener, getattr(import_module(module), name))
    return opener.open(directory / spec.model, manifest, EngineOptions(threads, max_tokens, chosen, in_memory))
