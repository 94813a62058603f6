"""What a guard can be exported for: an engine on a device, at one of its precisions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import cast, get_args

from guardpass.engines.native import fits
from guardpass.errors import InputError, MissingDependency
from guardpass.format.engines import ENGINES
from guardpass.format.manifest import Device, Engine, EngineName, Quant

from .checkpoint.architecture import Architecture
from .choices import EngineChoice, Via
from .guard_dir.job import Writer
from .to_gguf.quantize import check_blocks
from .to_gguf.write import GgufWriter
from .to_native import linear as native_linear
from .to_native.write import NativeWriter
from .to_onnx import cuda_recipes
from .to_onnx import linear as onnx_linear
from .to_onnx.write import OnnxWriter


@dataclass(frozen=True)
class Target:
    """How export writes for an engine on a device; what the engine takes, `guardpass.format.engines` says."""

    engine: EngineName
    writer: Callable[[str], Writer]  # by precision
    device: Device = "cpu"
    refuses: Mapping[str, str] = field(default_factory=dict)  # precisions that do not exist yet, and why

    @property
    def quants(self) -> tuple[Quant, ...]:
        """The precisions that it can be written at."""
        return ENGINES[self.engine].quants[self.device]


TARGETS = {
    ("onnx", "cpu"): Target("onnx", lambda quant: OnnxWriter(onnx_linear.RECIPES[quant])),
    ("native", "cpu"): Target("native", lambda quant: NativeWriter(native_linear.RECIPES[quant])),
    ("llamacpp", "cpu"): Target("llamacpp", GgufWriter),
    ("onnx", "cuda"): Target(
        "onnx", lambda quant: OnnxWriter(cuda_recipes.RECIPES[quant]), "cuda", refuses=cuda_recipes.REFUSES
    ),
}


def target_of(engine: Engine) -> Target:
    """The row of an engine on the device that the guard is for."""
    return TARGETS[engine.name, engine.device]


def choose(engine: str, quant: str | None, via: str, device: str = "cpu") -> Engine:
    """The engine and the precision that the caller's options select, not yet checked together. Raises InputError.

    "auto" is native where its kernels are installed, are made for this CPU, and have the precision; else onnx.
    """
    options = (("via", via, Via), ("engine", engine, EngineChoice), ("device", device, Device))
    for option, value, literal in options:
        allowed = get_args(literal)
        if value not in allowed:
            raise InputError(f"{option} is {value!r}, expected one of: {', '.join(allowed)}")
    name: EngineName
    if device == "cuda":
        if via != "own" or engine not in ("onnx", "auto"):
            raise InputError(
                f"device is 'cuda', engine {engine!r} and via {via!r}; expected onnx and own, which alone are exported "
                "for CUDA (a GGUF guard needs no export of its own: load it with device 'cuda')"
            )
        return Engine("onnx", cast(Quant, quant or ENGINES["onnx"].default["cuda"]), "cuda")
    if via == "optimum":
        name, quant = "onnx", quant or "fp32"
        if (engine, quant) not in (("onnx", "fp32"), ("auto", "fp32")):
            raise InputError(
                f"engine is {engine!r} and quant {quant!r}, expected onnx and fp32, which is all optimum writes"
            )
    elif engine == "auto":
        name = "native" if quant in (None, *ENGINES["native"].quants["cpu"]) and fits() else "onnx"
    else:
        name = "llamacpp" if engine == "gguf" else cast(EngineName, engine)
    return Engine(name, cast(Quant, quant or ENGINES[name].default["cpu"]), "cpu")


def check_fits(engine: Engine, arch: Architecture) -> None:
    """Raises InputError for a precision that the engine lacks, the architecture refuses, or its tensors do not fit."""
    quant, target = engine.quant, target_of(engine)
    known = ", ".join(target.quants)
    if quant in arch.kind.refuses:
        raise InputError(f"quant {quant} is refused for this architecture: {arch.kind.refuses[quant]}")
    if quant in target.refuses:
        raise InputError(
            f"quant {quant} is refused on {engine.device}: {target.refuses[quant]}; "
            f"use one of: {known}, or --device cpu"
        )
    if quant not in target.quants:
        where = engine.name + (f" on {engine.device}" if engine.device != "cpu" else "")
        raise InputError(f"quant is {quant!r}, expected one of: {known} (of engine {where})")
    if engine.name == "llamacpp":
        check_blocks(quant, arch.shapes())


def check_installed(engine: Engine) -> None:
    """Raises MissingDependency where the gate could not run the guard."""
    spec = ENGINES[engine.name]
    if find_spec(spec.module) is None:
        raise MissingDependency(
            f"the gate runs the guard, and {spec.module} is not installed; install {spec.install[engine.device]}"
        )
