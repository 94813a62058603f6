"""Rules for the metadata and the shapes of a GGUF, checked before llama.cpp opens it. It must be a plain decoder.

llama.cpp ends the process (GGML_ASSERT) on contradictory keys and tensors, so everything unknown is refused.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

ARCHITECTURES = ("llama", "gemma2", "qwen3")
TOKENIZERS = ("gpt2", "llama")  # byte-level BPE, SentencePiece

Shape = tuple[int, ...]  # the fastest axis first

# The keys of an architecture, with the largest value of each number. llama.cpp has room for 511 layers.
_SIZES = {
    "context_length": 1 << 24,
    "embedding_length": 1 << 20,
    "block_count": 511,
    "feed_forward_length": 1 << 22,
    "attention.head_count": 1 << 12,
}
_OPTIONAL = {
    "attention.head_count_kv": 1 << 12,
    "attention.key_length": 1 << 12,
    "attention.value_length": 1 << 12,
    "attention.sliding_window": 1 << 24,
    "rope.dimension_count": 1 << 12,
    "vocab_size": 1 << 22,
    "rope.scaling.original_context_length": 1 << 24,
}
_FLOATS = {
    "attention.layer_norm_rms_epsilon",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.factor",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
}
_SCALINGS = ("none", "linear", "yarn")
_OTHERS = {"rope.scaling.type", "rope.scaling.finetuned", "attention.sliding_window_pattern"}
# Keys of every architecture.
_TYPES: dict[str, type] = {
    "general.name": str,
    "general.file_type": int,
    "split.count": int,
    "tokenizer.chat_template": str,
    "tokenizer.ggml.pre": str,
    "tokenizer.ggml.add_space_prefix": bool,
}


def check_model(metadata: Mapping[str, Any], shapes: Mapping[str, Shape]) -> None:
    """Raises ValueError for a model that is not a plain decoder."""
    for key, kind in _TYPES.items():
        if key in metadata and type(metadata[key]) is not kind:
            raise ValueError(f"{key} is {metadata[key]!r:.60}, expected a value of type {kind.__name__}")
    if metadata.get("split.count", 0) > 1:
        raise ValueError("it is one part of several; merge them first with llama.cpp's gguf-split")
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ValueError(f"its architecture is {name!r:.60}, expected one of: {', '.join(ARCHITECTURES)}")
    own = {key.removeprefix(f"{name}."): value for key, value in metadata.items() if key.startswith(f"{name}.")}
    _check_keys(name, own)
    tokens = _check_vocabulary(metadata)
    _check_shapes(shapes, *_expected(name, own, tokens))


def _check_keys(name: str, own: Mapping[str, Any]) -> None:
    if unlike := sorted(own.keys() - _SIZES.keys() - _OPTIONAL.keys() - _FLOATS - _OTHERS):
        raise ValueError(f"it has {name}.{unlike[0]}, expected the keys of a plain decoder")
    for key, largest in (_SIZES | _OPTIONAL).items():
        value = own.get(key)
        if (key in own or key in _SIZES) and (type(value) is not int or not 1 <= value <= largest):
            raise ValueError(f"{name}.{key} is {value!r:.60}, expected 1 to {largest}")
    for key in _FLOATS & own.keys():
        if type(own[key]) is not float or not 0 <= own[key] < math.inf:
            raise ValueError(f"{name}.{key} is {own[key]!r:.60}, expected a positive number")
    if str(own.get("rope.scaling.type", "none")) not in _SCALINGS:
        raise ValueError(
            f"{name}.rope.scaling.type is {own['rope.scaling.type']!r:.60}, expected one of: {', '.join(_SCALINGS)}"
        )
    pattern = own.get("attention.sliding_window_pattern")
    if pattern is not None and not _is_pattern(pattern, own["block_count"]):
        raise ValueError(f"{name}.attention.sliding_window_pattern: expected a truth for each layer, some of them true")


def _is_pattern(value: object, layers: int) -> bool:
    """Whether a value is a bool for each layer, at least one of them True."""
    return isinstance(value, np.ndarray) and value.dtype == bool and len(value) == layers and bool(value.any())


def _expected(name: str, own: Mapping[str, Any], tokens: int) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """The shapes of the required tensors, and those of the optional ones."""
    width, inner, heads = own["embedding_length"], own["feed_forward_length"], own["attention.head_count"]
    groups, head = own.get("attention.head_count_kv", heads), own.get("attention.key_length", width // heads)
    values = own.get("attention.value_length", width // heads)
    rotated = own.get("rope.dimension_count", head)
    if heads % groups or head < 2 or head % 2 or not head == values == rotated:
        raise ValueError(
            f"it has {heads} heads and {groups} of keys, of {head} numbers, {values} in values and {rotated} rotated: "
            "expected heads that the groups divide, of one even size"
        )
    layer: dict[str, Shape] = {
        "attn_norm": (width,),
        "attn_q": (width, heads * head),
        "attn_k": (width, groups * head),
        "attn_v": (width, groups * head),
        "attn_output": (heads * head, width),
        "ffn_norm": (width,),
        "ffn_gate": (width, inner),
        "ffn_up": (width, inner),
        "ffn_down": (inner, width),
    }
    if name == "gemma2":
        layer |= {"post_attention_norm": (width,), "post_ffw_norm": (width,)}
    if name == "qwen3":
        layer |= {"attn_q_norm": (head,), "attn_k_norm": (head,)}
    needed = {f"blk.{n}.{part}.weight": shape for n in range(own["block_count"]) for part, shape in layer.items()}
    needed |= {"token_embd.weight": (width, tokens), "output_norm.weight": (width,)}
    optional: dict[str, Shape] = {} if name == "gemma2" else {"output.weight": (width, tokens)}
    if name == "llama":
        optional["rope_freqs.weight"] = (head // 2,)
    return needed, optional


def _check_shapes(shapes: Mapping[str, Shape], needed: Mapping[str, Shape], optional: Mapping[str, Shape]) -> None:
    if missing := sorted(needed.keys() - shapes.keys()):
        raise ValueError(f"it lacks {missing[0]}, and {len(missing) - 1} more tensors")
    expected = {**needed, **optional}
    for name, shape in shapes.items():
        if name not in expected:
            raise ValueError(f"it has {name}, expected the tensors of a plain decoder")
        if shape != expected[name]:
            raise ValueError(f"{name} has the shape {shape}, expected {expected[name]}")


def _check_vocabulary(data: Mapping[str, Any]) -> int:
    """Check the tokenizer; returns its number of tokens."""
    model, tokens = data.get("tokenizer.ggml.model"), data.get("tokenizer.ggml.tokens")
    if not isinstance(model, str) or model not in TOKENIZERS:
        raise ValueError(f"its tokenizer is {model!r:.60}, expected one of: {', '.join(TOKENIZERS)}")
    if not isinstance(tokens, list) or not tokens:
        raise ValueError("it has no tokens, expected a list of texts")
    unique = set(tokens)
    if len(unique) != len(tokens) or "" in unique:
        raise ValueError("two of its tokens are alike, or one is empty")
    for key, kind in (("token_type", np.int32), ("scores", np.float32)):
        values = data.get(f"tokenizer.ggml.{key}")
        if values is None and key == "scores" and model == "gpt2":
            continue
        if not isinstance(values, np.ndarray) or values.dtype != kind or len(values) != len(tokens):
            raise ValueError(f"tokenizer.ggml.{key}: expected {len(tokens)} of {np.dtype(kind)}")
        if not np.isfinite(values).all():
            raise ValueError(f"tokenizer.ggml.{key} holds values that are not finite")
    merges = data.get("tokenizer.ggml.merges", [])
    if not isinstance(merges, list) or any(merge.find(" ", 1) < 0 for merge in merges):
        raise ValueError("tokenizer.ggml.merges: expected pairs of tokens")
    if model == "gpt2" and not merges:
        raise ValueError("tokenizer.ggml.merges: expected some for byte-level BPE")
    if model == "llama" and not {f"<0x{byte:02X}>" for byte in range(256)} <= unique:
        raise ValueError("its SentencePiece vocabulary lacks some of the 256 byte tokens")
    for key, value in data.items():
        in_range = type(value) is int and 0 <= value < len(tokens)
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id") and not in_range:
            raise ValueError(f"{key} is {value!r:.60}, expected a token id below {len(tokens)}")
    return len(tokens)
