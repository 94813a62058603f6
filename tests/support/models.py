"""Tiny models of every architecture in transformers with random weights, and graphs of them with nothing baked."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from guardpass.export.checkpoint.config import read_architecture
from guardpass.export.checkpoint.files import Checkpoint
from guardpass.export.decoder.forward import write_decoder
from guardpass.export.decoder.ops import Ops
from guardpass.export.to_onnx.graph import Graph, inputs, outputs
from guardpass.export.to_onnx.linear import RECIPES, fp32
from guardpass.format.manifest import Prefix

ROTATED = replace(RECIPES["int8"], name="fp32", linear=fp32)
SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
}
# Softcaps and windows small enough to bite on 60 tokens; a query scalar that is not the head's size.
_GEMMA = {"sliding_window": 12, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 5.0}
MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "mistral, sliding window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=12)),
    "mistral, no window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES)),
    "qwen3, window from layer 2": lambda: Qwen3ForCausalLM(
        Qwen3Config(**SIZES, use_sliding_window=True, sliding_window=12, max_window_layers=2)
    ),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, **_GEMMA, final_logit_softcapping=3.0)),
    "gemma2, no softcaps": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SIZES | _GEMMA | {"attn_logit_softcapping": None}, final_logit_softcapping=None)
    ),
}


@torch.no_grad()
def logits(model: torch.nn.Module, tokens: list[int]) -> np.ndarray:
    """What transformers gives at every position: [tokens, vocabulary]."""
    return model(torch.tensor([tokens])).logits[0].numpy()


def unbaked(checkpoint: Path, rows: list[int], directory: Path) -> onnxruntime.InferenceSession:
    """The checkpoint's fp32 graph with an empty prefix, scoring the vocabulary's `rows`."""
    source = Checkpoint(checkpoint)
    shape, graph = read_architecture(source), Graph(directory / "model.onnx.data")
    write_decoder(Ops(source, shape, graph, RECIPES["fp32"], Prefix((), ()), lambda _: None), shape, rows)
    graph.finish(directory / "model.onnx", inputs(0), outputs(len(rows)))
    return onnxruntime.InferenceSession(directory / "model.onnx")
