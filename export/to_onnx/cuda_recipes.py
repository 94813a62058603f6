"""Precisions of ONNX guards on CUDA: weights and activations of one type, straight from the checkpoint.

The residual stream is of that type too, as in transformers: ONNX Runtime's CUDA RMSNormalization has no kernel from
float32 to bfloat16. RMS norms, softmaxes and sums of products are float32 inside; angles and scores are all of it.
"""

from collections.abc import Mapping
from functools import partial

import ml_dtypes
import numpy as np

from guardpass.format.manifest import Quant

from ..decoder.batching import BATCHED
from ..decoder.recipe import FLOAT, Dtype, Recipe
from .graph import Graph
from .linear import matmul

_DTYPES: dict[Quant, Dtype] = {
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "fp16": np.dtype(np.float16),
    "fp32": FLOAT,
}
RECIPES: dict[str, Recipe[Graph]] = {
    name: Recipe(name, partial(matmul, dtype=dtype), dtype=dtype, layout=BATCHED) for name, dtype in _DTYPES.items()
}
_NOT_YET = "guardpass has no CUDA kernels yet, and ONNX Runtime has none that do what"
REFUSES: Mapping[str, str] = {
    "int8": f"{_NOT_YET} int8 guards do (DynamicQuantizeMatMul)",
    "fp8": f"{_NOT_YET} 8-bit floating-point guards would need",
    "int4": "4-bit guards are not built and proven for CUDA yet",
}
