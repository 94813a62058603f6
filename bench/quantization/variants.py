"""Ways to quantize a guard that were compared; `export.to_onnx.linear.RECIPES` holds the chosen ones."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from guardpass.export.checkpoint.files import Array
from guardpass.export.decoder.recipe import Layer, Recipe
from guardpass.export.to_onnx.graph import Graph
from guardpass.export.to_onnx.linear import RECIPES, Linear, fp32, int4, int8, per_tensor, per_token

_CLIPS = (1.0, 0.97, 0.94, 0.91, 0.88)


def clipped(graph: Graph, layer: Layer) -> str:
    """int8 with each channel's weights cut where that gives the least squared error."""
    return per_tensor(graph, replace(layer, stream=((rows, _clip(chunk)) for rows, chunk in layer.stream)))


def _clip(weights: Array) -> Array:
    largest = np.abs(weights).max(axis=1, keepdims=True)
    best, bound = np.full(largest.shape, np.inf), largest
    for factor in _CLIPS:
        step = np.maximum(largest * factor, 1e-30) / 127
        error = np.square(np.clip(np.rint(weights / step), -127, 127) * step - weights).sum(axis=1, keepdims=True)
        best, bound = np.where(error < best, error, best), np.where(error < best, largest * factor, bound)
    result: Array = np.clip(weights, -bound, bound).astype(np.float32)
    return result


def mixed(first: Linear, chosen: Callable[[str], bool], rest: Linear) -> Linear:
    """Chosen layers by one way, all others by another."""
    return lambda graph, layer: (first if chosen(layer.name) else rest)(graph, layer)


def variants(layers: int) -> dict[str, Recipe[Graph]]:
    """By name, for a model of so many layers."""
    eight, four = RECIPES["int8"], RECIPES["int4"]
    plain = Recipe("int8", per_tensor)
    ends = [f"model.layers.{layer}." for layer in (0, layers - 1)]
    first_and_last = mixed(fp32, lambda name: name.startswith(tuple(ends)), per_tensor)
    return {
        "int8 plain": plain,
        "+ residual rotated": replace(plain, rotates=frozenset({"residual"})),
        "+ heads rotated": replace(plain, rotates=frozenset({"heads"})),
        "+ MLP rotated": replace(plain, rotates=frozenset({"ffn"})),
        "+ channels balanced": replace(plain, balanced=True),
        "+ per-token scales for MLPs": replace(plain, linear=int8),
        "+ per-token scales": replace(plain, linear=per_token),
        "+ weights clipped": replace(plain, linear=clipped),
        "+ first and last layer in fp32": replace(plain, linear=first_and_last),
        "all three rotations": replace(eight, linear=per_tensor, balanced=False),
        "rotations, balanced": replace(eight, linear=per_tensor),
        "**int8** (rotations, balanced, per-token for MLPs)": eight,
        "int8, per-token scales everywhere": replace(eight, linear=per_token),
        "int4 plain": Recipe("int4", int4),
        "int4, rotations, balanced": replace(four, calibrated=False),
        "int4, GPTQ alone": Recipe("int4", int4, calibrated=True),
        "**int4** (rotations, balanced, GPTQ)": four,
        "int4, blocks of 64": replace(four, linear=partial(int4, block=64)),
        "int4, values in int8": replace(four, linear=mixed(int8, lambda name: name.endswith("v_proj"), int4)),
    }
