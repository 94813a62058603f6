"""Checkpoints whose config, tokenizer and template do not fit: refused, and nothing is written."""

import json
from pathlib import Path
from typing import Any

import pytest

from guardpass import CheckpointError, GuardpassError, InputError, TemplateError

from ..support.broken import (
    Change,
    broken_copy,
    refuse_to_export,
    set_config,
    set_json,
    write,
)

broken = pytest.fixture(broken_copy)


_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_CONFIGS: list[tuple[dict[str, Any], str]] = [
    *(
        ({key: value}, f"{key} in config.json is .* expected a count")
        for key in (
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "intermediate_size",
            "vocab_size",
            "max_position_embeddings",
        )
        for value in (0, -1, True, "64", 64.0, 1 << 60, 10**400, [64])
    ),
    *(
        ({key: value}, f"{key} in config.json is .* expected a positive number")
        for key in ("rms_norm_eps", "rope_theta")
        for value in (0, -1.0, True, "1e-5", 10**400, None, float("nan"))
    ),
    ({"num_hidden_layers": ...}, "num_hidden_layers in config.json is None"),
    ({"num_hidden_layers": 2}, "disagree in 9 places: model.layers.2.*not part of this architecture"),
    ({"num_hidden_layers": 4}, "disagree in 9 places: model.layers.3.*is missing"),
    ({"hidden_size": 128}, "config.json and the tensors disagree"),
    ({"vocab_size": 2047}, "lm_head.weight is .2048, 64., expected .2047, 64."),
    ({"intermediate_size": 95}, "mlp.down_proj.weight is .64, 96., expected .64, 95."),
    ({"num_key_value_heads": 4}, "k_proj.weight is .32, 64., expected .64, 64."),
    ({"num_key_value_heads": 3}, "heads in equal groups"),
    ({"num_attention_heads": 100, "num_key_value_heads": 100, "head_dim": None}, "nothing for each"),
    ({"head_dim": 15}, "of even size"),
    ({"max_position_embeddings": 16}, "the prompt alone takes"),
    ({"tie_word_embeddings": "true"}, "tie_word_embeddings in config.json is .true., expected true or false"),
    ({"tie_word_embeddings": None}, "tie_word_embeddings in config.json is None"),
    ({"architectures": ["GPT2LMHeadModel"]}, "expected one of: LlamaForCausalLM, Mistral"),
    ({"architectures": ["LlamaForCausalLM", "X"]}, "expected one of: LlamaForCausalLM"),
    (
        {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "hidden_act": "gelu_pytorch_tanh"},
        "norm.weight is missing",
    ),
    ({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}, "q_norm.weight is missing"),
    ({"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": -1}, "sliding_window in"),
    ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "differ by layer type"),
    ({"architectures": ...}, "architectures in config.json is None"),
    ({"model_type": "mistral"}, "architectures in config.json"),
    ({"hidden_act": "gelu"}, "activation in config.json is 'gelu'; LlamaForCausalLM has silu"),
    ({"attention_bias": True}, "attention_bias in config.json is True"),
    ({"mlp_bias": True}, "mlp_bias in config.json is True"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ({"quantization_config": {"quant_method": "awq"}}, "quantization_config in config.json"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope scaling in config.json is 'yarn'"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope scaling in config.json is 'linear'"),
    ({"rope_scaling": [1]}, "expected an object"),
    ({"rope_parameters": {"rope_theta": 1e4}, "rope_theta": 5e5}, "itself: rope_theta is 10000.0.*500000.0"),
    (
        {"rope_parameters": {"rope_theta": 1e4}, "rope_scaling": {"rope_theta": 5e5}, "rope_theta": ...},
        "contradicts itself: rope_theta is 10000.0.*500000.0 in rope_scaling",
    ),
    ({"rope_parameters": {"rope_type": "default"}, "rope_scaling": _LLAMA3}, "itself: rope_type is 'default'"),
    ({"rope_parameters": _LLAMA3, "rope_scaling": {**_LLAMA3, "factor": 8.0}}, "itself: factor is 32.0.*8.0"),
    ({"rope_scaling": {**_LLAMA3, "type": "linear"}}, "has rope_type 'llama3' and type 'linear'"),
    ({"rope_scaling": _LLAMA3, "original_max_position_embeddings": 8192}, "max_position_embeddings is 64 .*8192"),
    ({"rope_scaling": {"factor": 8.0}}, "have factor 8.0, and their type 'default' has none"),
    ({"rope_scaling": {**_LLAMA3, "partial_rotary_factor": 0.5}}, "have partial_rotary_factor 0.5"),
    ({"rope_scaling": {**_LLAMA3, "attention_factor": 2.0}}, "have attention_factor 2.0, and their type 'llama3' has"),
    ({"dtype": "float16"}, "contradicts itself: dtype is 'float16' and torch_dtype is 'bfloat16'"),
    ({"per_layer_config": {"0": {"sliding_window": 4}}}, "per_layer_config in config.json is"),
    ({"is_causal": False}, "is_causal in config.json is False"),
    ({"use_bidirectional_attention": True}, "use_bidirectional_attention in config.json is True"),
    ({"text_config": {"hidden_size": 64}}, "text_config in config.json"),
    ({"layer_types": ["sliding_attention"] * 3}, "contradicts itself: 3 of 3 layers slide by layer_types, and 0 by"),
    ({"layer_types": "full_attention"}, "layer_types in config.json is 'full_attention', expected 3 of"),
    ({"hidden_activation": "gelu"}, "contradicts itself: hidden_activation is 'gelu' and hidden_act is 'silu'"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor in config.json is None"),
    (
        {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 4.0,
                "high_freq_factor": 1.0,
                "original_max_position_embeddings": 64,
            }
        },
        "has low_freq_factor 4.0",
    ),
]


@pytest.mark.parametrize(("changes", "says"), _CONFIGS, ids=lambda value: f"{value!r:.60}")
def test_bad_configs(broken: Path, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    set_config(**changes)(broken)
    refuse_to_export(broken, tmp_path / "out" / "guard", CheckpointError, says)


def chain(*changes: Change) -> Change:
    """Several changes, one after the other."""

    def apply(source: Path) -> None:
        for change in changes:
            change(source)

    return apply


_MAP = json.dumps({"bos_token": {"content": "<|begin_of_text|>"}, "eos_token": {"content": "<|end_of_text|>"}})


def _rename(old: str, new: str) -> Change:
    """Rename a verdict token, in tokenizer.json and tokenizer_config.json."""

    def apply(source: Path) -> None:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            text = (source / name).read_text()
            (source / name).write_text(text.replace(f'"{old}"', f'"{new}"'))

    return apply


@pytest.mark.parametrize(
    ("change", "family", "error", "says"),
    [
        (
            _rename("<SAFE>", "<FINE>"),
            None,
            CheckpointError,
            "no family's name, verdict tokens.*kanana-safeguard-siren",
        ),
        (
            _rename("<UNSAFE-I3>", "<X>"),
            "kanana-safeguard-siren",
            CheckpointError,
            "'<UNSAFE-I3>'.*is not one token here",
        ),
        (lambda _: None, "kanana-safeguard", CheckpointError, "'<UNSAFE-S1>'.*is not one token here.*--family"),
        (lambda _: None, "llama-guard", InputError, "unknown family.*kanana-safeguard, kanana-safeguard-siren"),
        (set_json("tokenizer_config.json", chat_template=...), None, TemplateError, "has no chat template"),
        (set_json("tokenizer_config.json", chat_template=7), None, TemplateError, "has no chat template"),
        (set_json("tokenizer_config.json", chat_template=[]), None, TemplateError, "has no chat template"),
        (set_json("tokenizer_config.json", chat_template=[{"name": [1]}, 3]), None, TemplateError, "no chat template"),
        (
            set_json(
                "tokenizer_config.json", chat_template=[{"name": "a", "template": "x"}, {"name": "b", "template": "y"}]
            ),
            None,
            TemplateError,
            "no chat template called default; tokenizer_config.json has 'a', 'b'; save the one",
        ),
        (set_json("tokenizer_config.json", chat_template={"rag": "x"}), None, TemplateError, "default; .* has 'rag'"),
        (
            chain(
                set_json("tokenizer_config.json", chat_template=...),
                write("chat_template.json", '{"chat_template": "x"}'),
            ),
            None,
            TemplateError,
            "chat_template.json is that of a processor; save its text as chat_template.jinja",
        ),
        (
            set_json("tokenizer_config.json", image_token="<|image|>"),
            None,
            CheckpointError,
            "does not add: .'<.image.>'",
        ),
        (
            set_json("tokenizer_config.json", model_specific_special_tokens={"image_token": "<|image|>"}),
            None,
            CheckpointError,
            "does not add: .'<.image.>'",
        ),
        (
            set_json("tokenizer_config.json", model_specific_special_tokens=["<|image|>"]),
            None,
            CheckpointError,
            "model_specific_special_tokens in tokenizer_config.json is .*expected an object",
        ),
        (
            set_json("tokenizer_config.json", x_token="<SAFE>", extra_special_tokens={"x_token": "<|eot_id|>"}),
            None,
            CheckpointError,
            "has 'x_token' twice, as '<SAFE>' and '<.eot_id.>'",
        ),
        (
            chain(set_json("tokenizer_config.json", added_tokens_decoder=...), write("special_tokens_map.json", _MAP)),
            None,
            CheckpointError,
            "has the eos_token '<.eot_id.>', special_tokens_map.json '<.end_of_text.>'",
        ),
        (
            chain(
                set_json("tokenizer_config.json", added_tokens_decoder=...), write("added_tokens.json", '{"<SAFE>": 7}')
            ),
            None,
            CheckpointError,
            "added_tokens.json gives '<SAFE>' the id 7, tokenizer.json .*contradicts itself",
        ),
        (set_json("tokenizer_config.json", chat_template="\ud800"), None, TemplateError, "surrogate"),
        (set_json("tokenizer_config.json", bos_token=7), None, CheckpointError, "special tokens"),
        (write("chat_template.jinja", b"\xff"), None, CheckpointError, "chat_template.jinja is not UTF-8"),
    ],
)
def test_what_the_prompt_is_made_of(
    broken: Path, tmp_path: Path, change: Change, family: str | None, error: type[GuardpassError], says: str
) -> None:
    change(broken)
    refuse_to_export(broken, tmp_path / "out" / "guard", error, says, family=family)


def test_unknown_tokens_are_no_verdict_tokens(broken: Path, tmp_path: Path) -> None:
    """A tokenizer that reads any text it lacks as one unknown token has no verdict in it."""
    model = {"type": "BPE", "vocab": {"<unk>": 0, "a": 1}, "merges": [], "unk_token": "<unk>", "fuse_unk": True}
    (broken / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    (broken / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages[0].content }}"}))
    refuse_to_export(broken, tmp_path / "out" / "guard", CheckpointError, "no family's name, verdict tokens")
    refuse_to_export(broken, tmp_path / "out" / "guard", CheckpointError, "is not one token", family="kanana-safeguard")
