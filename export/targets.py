"""What an export is for: an engine, and one of its precisions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal, cast, get_args

from guardpass.engines.native import fits
from guardpass.errors import InputError, MissingDependency
from guardpass.manifest import Device, Engine, EngineName, Quant

from .checkpoint.architecture import Architecture
from .to_gguf import quantize as gguf_quantize
from .to_native import linear as native_quantize
from .to_onnx import cuda_recipes as cuda
from .to_onnx import linear as quantize

Asked = Literal["onnx", "native", "llamacpp", "gguf", "auto"]  # gguf is what the file of llamacpp is called
Via = Literal["own", "optimum"]


@dataclass(frozen=True)
class Row:
    """An engine: its precisions, the one it has by default, and what it is installed by."""

    quants: Mapping[str, Any]
    default: str
    module: str
    install: str
    refuses: Mapping[str, str] = field(default_factory=dict)  # precisions one may ask for, and why they are not there


ENGINES: dict[EngineName, Row] = {
    "onnx": Row(quantize.RECIPES, "int8", "onnxruntime", "guardpass[cpu]"),
    "native": Row(native_quantize.RECIPES, "int8", "guardpass_kernels", "./kernels of guardpass's repository"),
    "llamacpp": Row(gguf_quantize.QUANTS, "q8_0", "llama_cpp", "guardpass[gguf]"),
}
CUDA = Row(cuda.RECIPES, "bf16", "onnxruntime", "guardpass[cuda] or guardpass[cpu]", cuda.REFUSES)


def row_of(engine: Engine) -> Row:
    """What an engine has on the device that the guard is for."""
    return CUDA if (engine.name, engine.device) == ("onnx", "cuda") else ENGINES[engine.name]


def choose(asked: str, quant: str | None, via: str, device: str = "cpu") -> Engine:
    """The engine and the precision that the caller's options come to, not yet checked together. Raises InputError.

    "auto" is native where its kernels are installed, are made for this CPU, and have the precision; else onnx.
    """
    options = (
        ("via", via, get_args(Via)), ("engine", asked, get_args(Asked)), ("device", device, get_args(Device)),
    )  # fmt: skip
    for option, value, allowed in options:
        if value not in allowed:
            raise InputError(f"{option} is {value!r}, expected one of: {', '.join(allowed)}")
    name: EngineName
    if device == "cuda":
        if via != "own" or asked not in ("onnx", "auto"):
            raise InputError(
                f"device is 'cuda', engine {asked!r} and via {via!r}; expected onnx and own, which alone are exported "
                "for CUDA (a GGUF guard needs no export of its own: load it with device 'cuda')"
            )
        return Engine("onnx", cast(Quant, quant or CUDA.default), "cuda")
    if via == "optimum":
        name, quant = "onnx", quant or "fp32"
        if (asked, quant) not in (("onnx", "fp32"), ("auto", "fp32")):
            raise InputError(
                f"engine is {asked!r} and quant {quant!r}, expected onnx and fp32, which is all optimum writes"
            )
    elif asked == "auto":
        name = "native" if quant in (None, *ENGINES["native"].quants) and fits() else "onnx"
    else:
        name = "llamacpp" if asked == "gguf" else cast(EngineName, asked)
    return Engine(name, cast(Quant, quant or ENGINES[name].default), "cpu")


def check_fits(engine: Engine, shape: Architecture) -> None:
    """Raises InputError for a precision that the engine lacks, the architecture refuses, or its tensors do not fit."""
    quant, row = engine.quant, row_of(engine)
    known = ", ".join(row.quants)
    if quant in shape.kind.refuses:
        raise InputError(f"quant {quant} is refused for this architecture: {shape.kind.refuses[quant]}")
    if quant in row.refuses:
        raise InputError(
            f"quant {quant} is refused on {engine.device}: {row.refuses[quant]}; use one of: {known}, or --device cpu"
        )
    if quant not in row.quants:
        where = engine.name + (f" on {engine.device}" if engine.device != "cpu" else "")
        raise InputError(f"quant is {quant!r}, expected one of: {known} (of engine {where})")
    if engine.name == "llamacpp":
        gguf_quantize.check_blocks(quant, shape.shapes())


def check_installed(engine: Engine) -> None:
    """Raises MissingDependency where the gate could not run what is exported."""
    row = row_of(engine)
    if find_spec(row.module) is None:
        raise MissingDependency(f"the gate runs the guard, and {row.module} is not installed; install {row.install}")
