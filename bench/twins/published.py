"""The published checkpoints that have a twin, one row each.

Sizes are those of model cards, configs and base models; what is not published is said where it stands. Shard
counts are published for kanana-safeguard-8b alone; the others have about one per 5 GB.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from guardpass.errors import InputError

# The tokenizer's format. "kanana" is llama3 with a vocabulary of its own where none is given; tests know its ids.
TokenizerKind = Literal["kanana", "llama3", "gemma", "mistral", "qwen"]


@dataclass(frozen=True)
class Twin:
    """What a published checkpoint looks like."""

    name: str
    verdicts: tuple[str, ...]  # added tokens, in the order of their ids, which is not sorted
    template: str  # "" where the guard is prompted with raw text
    config: dict[str, Any]
    shards: int
    dtype: str = "BF16"
    tokenizer: TokenizerKind = "kanana"
    family: str | None = None  # where neither its tokens nor its template tell; written into twin.json
    date: str | None = None  # today's date for its template; written into twin.json


def _template(name: str) -> str:
    return (Path(__file__).parent / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


# Kanana Safeguard 8B's own template, as its tokenizer_config.json has it.
KANANA_TEMPLATE = (
    "{% set ns = namespace(user_msg='', assistant_msg='') %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.user_msg = m.content | trim %}{% elif m.role == 'assistant' %}"
    "{% set ns.assistant_msg = m.content | trim %}{% endif %}{% endfor %}"
    "<|start_header_id|>system<|end_header_id|>\n\nClassify the conversation between a human and an AI. "
    "Respond only with the taxonomy code. (taxonomy codes : ['<SAFE>', '<UNSAFE-S1>', '<UNSAFE-S2>', '<UNSAFE-S3>', "
    "'<UNSAFE-S4>', '<UNSAFE-S5>', '<UNSAFE-S6>', '<UNSAFE-S7>'])<|eot_id|><|start_header_id|>user<|end_header_id|>"
    "\n\n<human>{{ ns.user_msg }}</human>\n<ai>{{ ns.assistant_msg }}</ai><|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n\n"
)


def _one_sided(labels: Sequence[str]) -> str:
    """A stand-in for the templates of siren and prompt, which are not public: 8B's frame, the user's text alone."""
    return (
        "<|start_header_id|>system<|end_header_id|>\n\nClassify the user message. Respond only with the taxonomy code. "
        f"(taxonomy codes : {sorted(labels)!r})<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        "{{ messages[0].content | trim }}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n\n"
    )


_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "torch_dtype": "bfloat16",
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,  # not published for Kanana; Llama 3's
    "rope_scaling": None,
    "rms_norm_eps": 1e-5,
}
# fmt: off
_8B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128264, "tie_word_embeddings": False,
}
# fmt: on
_SAFEGUARD = tuple(
    f"<{name}>"
    for name in [
        "SAFE",
        "UNSAFE-S5",
        "UNSAFE-S3",
        "UNSAFE-S1",
        "UNSAFE-S2",
        "UNSAFE-S4",
        "UNSAFE-S7",
        "UNSAFE-S6",
    ]
)
_SIREN = tuple(
    f"<{name}>" for name in ["SAFE", "UNSAFE-I3", "UNSAFE-I1", "UNSAFE-I4", "UNSAFE-I2"]
)  # order not published
_PROMPT = ("<UNSAFE-A1>", "<SAFE>", "<UNSAFE-A2>")

# fmt: off
# Llama 3.1 and 3.2, Gemma 2, Mistral v0.3 and Qwen3, as their own repositories have them.
_SCALED = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 8192}
_LLAMA31 = _LLAMA | {"max_position_embeddings": 131072, "rope_scaling": _SCALED | {"factor": 8.0}}
_LLAMA32 = _LLAMA | {
    "max_position_embeddings": 131072, "rope_scaling": _SCALED | {"factor": 32.0}, "vocab_size": 128256,
    "num_key_value_heads": 8, "intermediate_size": 8192, "tie_word_embeddings": True,
}
_GEMMA2 = {  # tied, which it leaves unsaid
    "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "vocab_size": 256000, "torch_dtype": "bfloat16",
    "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "attention_bias": False,
    "max_position_embeddings": 8192, "rope_theta": 10000.0, "rms_norm_eps": 1e-6, "sliding_window": 4096,
    "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "query_pre_attn_scalar": 256, "head_dim": 256,
}
_MISTRAL = {
    "architectures": ["MistralForCausalLM"], "model_type": "mistral", "torch_dtype": "bfloat16", "vocab_size": 32768,
    "hidden_act": "silu", "max_position_embeddings": 32768, "rope_theta": 1000000.0, "rms_norm_eps": 1e-5,
    "sliding_window": None,
}
_QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "torch_dtype": "bfloat16", "vocab_size": 151936,
    "hidden_act": "silu", "attention_bias": False, "max_position_embeddings": 32768, "rope_theta": 1000000.0,
    "rope_scaling": None, "rms_norm_eps": 1e-6, "use_sliding_window": False, "sliding_window": None,
    "max_window_layers": 28,
}
# fmt: on


def _sizes(layers: int, hidden: int, ffn: int, heads: int, kv_heads: int, head_dim: int) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
    }


def _qwen3guard(size: str, config: dict[str, Any], *, tied: bool, shards: int) -> Twin:
    config = _QWEN3 | config | {"tie_word_embeddings": tied}
    return Twin(f"qwen3guard-gen-{size}", (), _template("qwen3guard-gen"), config, shards, tokenizer="qwen")


def _shieldgemma(size: str, config: dict[str, Any], *, shards: int) -> Twin:
    return Twin(
        f"shieldgemma-{size}",
        (),
        _template("shieldgemma"),
        _GEMMA2 | config,
        shards,
        tokenizer="gemma",
        family="shieldgemma",
    )


# fmt: off
TWINS = (
    Twin("kanana-safeguard-8b", _SAFEGUARD, KANANA_TEMPLATE, _LLAMA | _8B, shards=4),
    Twin("kanana-safeguard-siren-8b", _SIREN, _one_sided(_SIREN), _LLAMA | _8B, shards=4),
    Twin(
        "kanana-safeguard-prompt-2.1b", _PROMPT, _one_sided(_PROMPT),
        # 24 heads of 128 are wider than the hidden size: head_dim has to be read, not derived.
        _LLAMA | {
            "hidden_size": 1792, "intermediate_size": 8064, "num_hidden_layers": 32, "num_attention_heads": 24,
            "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128259, "tie_word_embeddings": True,
        },
        shards=1,
    ),
    Twin(
        "wildguard-ko-3b", (), _template("llama-3.2"),  # the stock template, as the repository's own is not public
        _LLAMA32 | _sizes(28, 3072, 8192, 24, 8, 128) | {"torch_dtype": "float16"},
        shards=2, dtype="F16", tokenizer="llama3", family="wildguard-ko", date="2024-07-26",
    ),
    _shieldgemma("2b", _sizes(26, 2304, 9216, 8, 4, 256), shards=2),
    _shieldgemma("9b", _sizes(42, 3584, 14336, 16, 8, 256), shards=4),
    _shieldgemma("27b", _sizes(46, 4608, 36864, 32, 16, 128) | {"query_pre_attn_scalar": 144}, shards=12),
    Twin(
        # Unlike its base, Llama 3.2 1B: rope scaled by 8, and a head of its own.
        "llama-guard-3-1b", (), _template("llama-guard-3-1b"),
        _LLAMA31 | _sizes(16, 2048, 8192, 32, 8, 64) | {"vocab_size": 128256, "tie_word_embeddings": False},
        shards=1, tokenizer="llama3",
    ),
    Twin(
        # Scaled rope is in its config.json; Meta's own model list says it has none.
        "llama-guard-3-8b", (), _template("llama-guard-3-8b"), _LLAMA31 | _8B | {"vocab_size": 128256},
        shards=4, tokenizer="llama3",
    ),
    Twin(
        "wildguard-7b", (), "",  # raw text
        _MISTRAL | _sizes(32, 4096, 14336, 32, 8, 128) | {"tie_word_embeddings": False},
        shards=3, tokenizer="mistral", family="wildguard",
    ),
    _qwen3guard("0.6b", _sizes(28, 1024, 3072, 16, 8, 128), tied=True, shards=1),
    _qwen3guard("4b", _sizes(36, 2560, 9728, 32, 8, 128) | {"max_window_layers": 36}, tied=True, shards=2),
    _qwen3guard("8b", _sizes(36, 4096, 12288, 32, 8, 128) | {"max_window_layers": 36}, tied=False, shards=4),
    Twin(
        # Not published: the ids of its label tokens ("reserved"), here two rows more than Llama's.
        "llama-safetyguard-binary", ("<SAFE>", "<UNSAFE>"), _template("llama-3.1"),
        _LLAMA31 | _8B | {"vocab_size": 128258},
        shards=4, tokenizer="llama3",
    ),
)
# fmt: on


def find(name: str) -> Twin:
    """The twin called `name`. Raises InputError, listing all, where there is none."""
    for row in TWINS:
        if row.name == name:
            return row
    raise InputError(f"unknown checkpoint {name!r}, expected one of: {', '.join(row.name for row in TWINS)}")
