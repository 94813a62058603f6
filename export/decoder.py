"""The forward of a decoder: one description for every architecture of the table, the baked prefix and the graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from .architecture import Architecture
from .ops import Ops, Rotation, Value


def write_decoder(ops: Ops, shape: Architecture, rows: Sequence[int]) -> None:
    """The whole graph, from tokens to scores of the vocabulary's `rows`."""
    with np.errstate(all="ignore"):  # what overflows on the prefix is found, and refused, by the head
        x = ops.embed()
        rotation = ops.rotation("positions")
        for layer in range(shape.layers):
            x = _layer(ops, shape, x, layer, rotation)
        ops.head(ops.norm(x, "model.norm"), rows)


def _layer(ops: Ops, shape: Architecture, x: Value, layer: int, rotation: Rotation) -> Value:
    kind, name, window = shape.kind, f"model.layers.{layer}", shape.windows[layer]
    mask = ops.mask(window)
    normed = ops.norm(x, f"{name}.input_layernorm")
    k = ops.linear(normed, f"{name}.self_attn.k_proj")
    k = ops.rope(ops.head_norm(k, shape.kv_heads, f"{name}.self_attn.k_norm"), shape.kv_heads, rotation)
    v = ops.linear(normed, f"{name}.self_attn.v_proj")
    if layer == shape.layers - 1:
        # Only the slots are scored: from here on they are the only rows that matter.
        index, mask, rotation = ops.slots(mask)
        x, normed = ops.rows(x, index), ops.rows(normed, index)
    q = ops.linear(normed, f"{name}.self_attn.q_proj")
    q = ops.rope(ops.head_norm(q, shape.heads, f"{name}.self_attn.q_norm"), shape.heads, rotation)
    attended = ops.linear(ops.attention(q, k, v, mask, window, f"{name}.self_attn"), f"{name}.self_attn.o_proj")
    if kind.post_norms:
        attended = ops.norm(attended, f"{name}.post_attention_layernorm")
    x = ops.add(x, attended)

    normed = ops.norm(x, f"{name}.{kind.mlp_norm}")
    gate, up = ops.linear(normed, f"{name}.mlp.gate_proj"), ops.linear(normed, f"{name}.mlp.up_proj")
    mixed = ops.linear(ops.gated(gate, up, f"{name}.mlp"), f"{name}.mlp.down_proj")
    if kind.post_norms:
        mixed = ops.norm(mixed, f"{name}.post_feedforward_layernorm")
    return ops.add(x, mixed)


def inputs(columns: int) -> list[Any]:
    """The graph's inputs. One request is one pass, so the batch is 1; T and S are free."""
    value = helper.make_tensor_value_info
    return [
        value("tokens", TensorProto.INT64, [1, "T"]),
        value("positions", TensorProto.INT64, [1, "T"]),
        value("mask", TensorProto.BOOL, [1, 1, "T", f"T + {columns}"]),
        value("slots", TensorProto.INT64, [1, "S"]),
    ]


def outputs(labels: int) -> list[Any]:
    """The graph's output."""
    return [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, "S", labels])]
