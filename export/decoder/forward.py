"""The forward of a decoder: one description for every architecture of the table, the baked prefix and the graph."""

from collections.abc import Sequence

import numpy as np

from guardpass.format.manifest import Prefix
from guardpass.plan import Pass

from ..checkpoint.architecture import Architecture
from ..checkpoint.files import Array, Checkpoint
from ..guard_dir.progress import Progress, no_progress, summed
from .ops import Ops, RopeAngles, Value
from .recipe import Layer, Recipe
from .writer import NullWriter


def write_decoder(ops: Ops, arch: Architecture, columns: Sequence[int]) -> list[Array]:
    """The whole graph, from tokens to scores of the vocabulary's `columns`; returns the judged passes' [S, V']."""
    with np.errstate(all="ignore"):  # the head refuses scores that are not finite
        x = ops.embed()
        if not arch.kind.post_norms:
            x = ops.rotated(x, "residual")
        angles = ops.rope_angles("positions", ops.rows)
        for layer in range(arch.layers):
            x = _layer(ops, arch, x, layer, angles)
        return ops.head(ops.norm(x, "model.norm", folded=True), columns)


def _layer(ops: Ops, arch: Architecture, x: Value, layer: int, angles: RopeAngles) -> Value:
    x = _attention(ops, arch, x, layer, angles)
    return _mlp(ops, arch, x, f"model.layers.{layer}")


def _attention(ops: Ops, arch: Architecture, x: Value, layer: int, angles: RopeAngles) -> Value:
    name, window = f"model.layers.{layer}", arch.windows[layer]
    mask, rows = ops.mask(window), ops.rows
    normed = _normed(ops, arch, x, f"{name}.input_layernorm")
    k = ops.linear(normed, f"{name}.self_attn.k_proj")
    k = ops.rope(ops.head_norm(k, arch.kv_heads, f"{name}.self_attn.k_norm"), arch.kv_heads, angles)
    v = ops.linear(normed, f"{name}.self_attn.v_proj", block=ops.block(arch.head_dim, "heads"), balanced=True)
    if layer == arch.layers - 1:
        # Only the slots are scored: from here on they are the only rows that matter.
        index, mask, rows, angles = ops.slots(mask)
        x, normed = ops.kept(x, index), ops.kept(normed, index)
    q = ops.linear(normed, f"{name}.self_attn.q_proj")
    q = ops.rope(ops.head_norm(q, arch.heads, f"{name}.self_attn.q_norm"), arch.heads, angles)
    mixed = ops.attention(q, k, v, mask, rows, window, f"{name}.self_attn")
    mixed = ops.linear(mixed, f"{name}.self_attn.o_proj", block=x.basis.block)
    if arch.kind.post_norms:
        mixed = ops.norm(mixed, f"{name}.post_attention_layernorm")
    return ops.add(x, mixed)


def _mlp(ops: Ops, arch: Architecture, x: Value, name: str) -> Value:
    mixed = ops.linear(_gated(ops, arch, x, name), f"{name}.mlp.down_proj", block=x.basis.block, uneven=True)
    if arch.kind.post_norms:
        mixed = ops.norm(mixed, f"{name}.post_feedforward_layernorm")
    return ops.add(x, mixed)


def _gated(ops: Ops, arch: Architecture, x: Value, name: str) -> Value:
    """A function of its own, so that the reference's largest arrays are let go where it ends."""
    normed = _normed(ops, arch, x, f"{name}.{arch.kind.mlp_norm}")
    gate = ops.linear(normed, f"{name}.mlp.gate_proj")
    up = ops.linear(normed, f"{name}.mlp.up_proj", balanced=True)
    return ops.rotated(ops.gated(gate, up, f"{name}.mlp"), "ffn")


def _normed(ops: Ops, arch: Architecture, x: Value, name: str) -> Value:
    """What a layer reads. With post-norms the residual stream cannot be rotated, as their gains stand between."""
    normed = ops.norm(x, name, folded=True)
    return ops.rotated(normed, "residual") if arch.kind.post_norms else normed


def reference_scores(
    checkpoint: Checkpoint,
    arch: Architecture,
    prefix: Prefix,
    columns: Sequence[int],
    judged: Sequence[Pass],
    progress: Progress = no_progress,
) -> list[Array]:
    """The scores [S, V'] of each judged pass by the checkpoint's own weights in fp32; nothing is written.

    prefix: the baked columns of the passes. columns: the V' token ids that are scored.
    """
    recipe = Recipe("fp32", _unwritten)
    ops = Ops(checkpoint, arch, NullWriter(), recipe, prefix, summed(arch.streamed, progress), (), judged)
    return write_decoder(ops, arch, columns)


def _unwritten(_writer: NullWriter, layer: Layer) -> str:
    for _ in layer.stream:  # the reference multiplies each chunk as it passes
        pass
    return layer.name
