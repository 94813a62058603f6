"""Linear layers as integers for engine `native`, which scales activations token by token. A row for each precision."""

from functools import partial

import numpy as np

from guardpass.format.packed_rules import GROUP

from ..checkpoint.files import Array
from ..decoder.gptq import best_scale, rounded
from ..decoder.recipe import ALL, Layer, Recipe, symmetric
from .layout import Integers
from .packed_writer import Packed

_STEPS = 16  # the largest group scale: -8 x 16 is the lowest of 8 bits
_TRIED = 5  # group scales, from that which cuts nothing off on down


def int8(packed: Packed, layer: Layer) -> str:
    """Weights symmetric per output channel."""
    levels, scale = np.empty((layer.n, layer.k), np.int8), np.empty(layer.n, np.float32)
    for rows, chunk in layer.stream:
        levels[rows], scale[rows] = symmetric(chunk)
    return packed.linear(layer.name, Integers(levels, scale))


def int4(packed: Packed, layer: Layer) -> str:
    """4-bit levels, 32 with a whole number that brings them to int8, and a scale per output channel.

    Two-level scales, as QServe has them (arXiv 2405.04532): the products stay those of int8. Corrected by GPTQ.
    """
    levels, scale = np.empty((layer.n, layer.k), np.int8), np.empty(layer.n, np.float32)
    group = np.empty((layer.n, -(-layer.k // GROUP)), np.uint8)
    for rows, chunk in layer.stream:
        channel = scale[rows] = _channel_scale(chunk)
        levels[rows], scales = rounded(chunk, layer.seen, GROUP, partial(_whole_scale, channel))
        group[rows] = np.rint(scales / channel[:, None])
    return packed.linear(layer.name, Integers(levels, scale, group))


def _channel_scale(weights: Array) -> Array:
    """Of weights [N, K] the unit [N] of which the widest group needs 16."""
    reach: Array = np.maximum(weights.max(axis=1) / 7, weights.min(axis=1) / -8)
    return np.maximum(reach / _STEPS, 1e-30, dtype=np.float32)


def _whole_scale(unit: Array, block: Array) -> Array:
    """The multiple of `unit` [N] with the least squared error for a block [size, N]."""
    reach = np.maximum(block.max(axis=0) / 7, block.min(axis=0) / -8) / unit
    most = np.clip(np.ceil(reach), 1, _STEPS)
    return best_scale(block, (np.maximum(most - less, 1) * unit for less in range(_TRIED)))


RECIPES: dict[str, Recipe[Packed]] = {
    "int8": Recipe("int8", int8, ALL, balanced=True),
    "int4": Recipe("int4", int4, ALL, balanced=True, calibrated=True),
}
