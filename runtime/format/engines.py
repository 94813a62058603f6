"""The table of engines: model file, precisions, package and class of each."""

from collections.abc import Mapping
from dataclasses import dataclass

from .manifest import Device, Engine, EngineName, Quant


@dataclass(frozen=True)
class EngineSpec:
    """One engine.

    model: the name of its model file.
    quants: by device of the export, its precisions; without "other", which only an adopted GGUF has.
    default: by device, the default precision.
    module: the package that it needs.
    install: by device, how to install that package.
    opens: by device, the class that opens a guard.
    """

    model: str
    quants: Mapping[Device, tuple[Quant, ...]]
    default: Mapping[Device, Quant]
    module: str
    install: Mapping[Device, str]
    opens: Mapping[Device, str]


_LLAMACPP: tuple[Quant, ...] = ("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_nl")
ENGINES: dict[EngineName, EngineSpec] = {
    "onnx": EngineSpec(
        model="model.onnx",
        quants={"cpu": ("fp32", "int8", "int4"), "cuda": ("bf16", "fp16", "fp32")},
        default={"cpu": "int8", "cuda": "bf16"},
        module="onnxruntime",
        install={"cpu": "guardpass[cpu]", "cuda": "guardpass[cuda] or guardpass[cpu]"},
        opens={"cpu": "guardpass.engines.onnx.cpu:OnnxEngine", "cuda": "guardpass.engines.onnx.cuda:CudaEngine"},
    ),
    "native": EngineSpec(
        model="model.packed",
        quants={"cpu": ("int8", "int4")},
        default={"cpu": "int8"},
        module="guardpass_kernels",
        install={"cpu": "./kernels of guardpass's repository"},
        opens={"cpu": "guardpass.engines.native:NativeEngine"},
    ),
    "llamacpp": EngineSpec(
        model="model.gguf",
        quants={"cpu": _LLAMACPP, "cuda": _LLAMACPP},  # a GGUF guard runs on both
        default={"cpu": "q8_0", "cuda": "q8_0"},
        module="llama_cpp",
        install={"cpu": "guardpass[gguf]", "cuda": "guardpass[gguf], built for CUDA"},
        opens=dict.fromkeys(("cpu", "cuda"), "guardpass.engines.llamacpp.engine:LlamaCppEngine"),
    ),
}


def holds(engine: Engine) -> bool:
    """Whether a model file of the engine may have this precision on this device."""
    quants = ENGINES[engine.name].quants.get(engine.device, ())
    return engine.quant in quants or (engine.name, engine.quant) == ("llamacpp", "other")
