"""The values that options of an export take. Light, so that `--help` starts fast."""

from typing import Literal

EngineChoice = Literal["onnx", "native", "llamacpp", "gguf", "auto"]  # gguf: the file format of llamacpp
# Of all engines; targets.py says which has which.
QuantChoice = Literal[
    "fp32", "int8", "int4", "fp16", "bf16", "f32", "f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_nl"
]
Via = Literal["own", "optimum"]
