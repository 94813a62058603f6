"""A checkpoint in transformers: the reference for verdicts, and a peer for speed."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM


def load_reference(checkpoint: Path, dtype: torch.dtype) -> Any:
    """The model, in evaluation mode.

    transformers 5 refuses heads that do not divide the hidden size even where head_dim is given, as in Kanana's
    2.1B (24 x 128, 1792); it runs such a model all the same when the heads are set after its check.
    """
    body = json.loads((checkpoint / "config.json").read_text())
    heads, kind = body.pop("num_attention_heads"), body.pop("model_type")
    config = AutoConfig.for_model(kind, num_attention_heads=1, **body | {"num_key_value_heads": 1})
    config.num_attention_heads, config.num_key_value_heads = heads, body["num_key_value_heads"]
    return AutoModelForCausalLM.from_pretrained(checkpoint, config=config, dtype=dtype).eval()
