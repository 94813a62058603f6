"""Every key of config.json: what reads it, what it has to say, or why it changes no score."""

from collections.abc import Mapping
from typing import Any

from guardpass.errors import CheckpointError

from .architecture import Kind
from .files import Checkpoint, Folder

# What `read_architecture` reads of every kind; a kind's own are the keys of its defaults.
_READ = frozenset(
    {
        "architectures",
        "model_type",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "rms_norm_eps",
        "tie_word_embeddings",
        "hidden_act",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "original_max_position_embeddings",
        "layer_types",
    }
)
# What these decoders do in any case, or not at all: the values a key may have, the first of them where it is absent.
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1.0, None),
    "quantization_config": (None,),
    "use_bidirectional_attention": (None, False),
    "is_causal": (True,),
    "per_layer_config": (None, {}),  # transformers 5: other sizes or windows in some layers
    "pruned_heads": (None, {}),
    "text_config": (None,),  # of a model of several parts, whose decoder is described inside
}
# Of training, of other heads, of how a model is loaded or what it returns besides scores.
HARMLESS = frozenset(
    {
        "attention_dropout",
        "initializer_range",
        "use_cache",
        "pad_token_id",
        "bos_token_id",
        "eos_token_id",
        "pretraining_tp",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "return_dict",
        "output_hidden_states",
        "output_attentions",
        "chunk_size_feed_forward",
        "is_encoder_decoder",
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "name_or_path",
        "_name_or_path",
        "_commit_hash",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_autoset",
        "cache_implementation",
        "sep_token_id",
        "cls_token_id",
        "decoder_start_token_id",
        "prefix",
        "task_specific_params",
        "finetuning_task",
        "is_decoder",
        "add_cross_attention",
        "cross_attention_hidden_size",
        "tie_encoder_decoder",
        "torchscript",
        "use_bfloat16",
        "tf_legacy_loss",
        "tokenizer_class",
    }
)
# What shapes a text that is generated, and what it is where it does not change which token comes first. Older
# config.json files hold some of it; transformers 5 reads generation_config.json alone.
_GENERATION: Mapping[str, tuple[Any, ...]] = {
    "repetition_penalty": (1.0, None),
    "encoder_repetition_penalty": (1.0, None),
    "no_repeat_ngram_size": (0, None),
    "encoder_no_repeat_ngram_size": (0, None),
    "guidance_scale": (1.0, None),
    **dict.fromkeys(
        (
            "bad_words_ids",
            "suppress_tokens",
            "begin_suppress_tokens",
            "sequence_bias",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "exponential_decay_length_penalty",
            "watermarking_config",
        ),
        (None, []),
    ),
}
_SAMPLING = frozenset(
    {
        "max_length",
        "min_length",
        "max_new_tokens",
        "min_new_tokens",
        "do_sample",
        "early_stopping",
        "num_beams",
        "num_beam_groups",
        "diversity_penalty",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
        "epsilon_cutoff",
        "eta_cutoff",
        "length_penalty",
        "num_return_sequences",
        "output_scores",
        "return_dict_in_generate",
        "remove_invalid_values",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "assistant_confidence_threshold",
        "assistant_lookbehind",
        "target_lookbehind",
    }
)
# Two keys for one thing: transformers takes one of them, and which depends on its version.
_TWICE = (("dtype", "torch_dtype"), ("hidden_activation", "hidden_act"))
# Of rope parameters: what is read of each type, and what transformers knows of other types.
_ROPE = ("rope_theta", "rope_type", "original_max_position_embeddings")
ROPE_TYPES: Mapping[str, tuple[str, ...]] = {
    "default": _ROPE,
    "llama3": (*_ROPE, "factor", "low_freq_factor", "high_freq_factor"),
}
_OTHER_ROPE: Mapping[str, tuple[Any, ...]] = {
    "partial_rotary_factor": (1.0, None),
    "attention_factor": (1.0, None),
    **dict.fromkeys(
        (
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "short_factor",
            "long_factor",
            "truncate",
        ),
        (None,),
    ),
}


def check_keys(folder: Checkpoint, config: Mapping[str, Any], kind: Kind) -> None:
    """Notes the keys that nothing reads; `config` is config.json with the kind's defaults.

    Raises CheckpointError for one that asks for another decoder than `kind`, and for two that contradict each other.
    """
    for key, allowed in _FIXED.items():
        if key in config and config[key] not in allowed:
            raise CheckpointError(f"{key} in config.json is {config[key]!r:.80}; only {allowed[0]!r} is supported")
    for first, second in _TWICE:
        one, other = config.get(first), config.get(second)
        if None not in (one, other) and one != other:
            unsaid = ", which it leaves unsaid," if first not in folder.config else ""
            raise CheckpointError(
                f"config.json contradicts itself: {first} is {one!r:.60}{unsaid} and {second} is {other!r:.60}; remove "
                "the one that is wrong"
            )
    unread = sorted(key for key, value in config.items() if key not in known_keys(kind) and value is not None)
    if unread:
        folder.note(f"config.json has keys that {kind.name} does not know and nothing reads: {shown(unread)}")
    note_generation(folder, config, "config.json")


def known_keys(kind: Kind) -> frozenset[str]:
    """The keys that are read, checked or known to change no score."""
    return _READ | kind.defaults.keys() | _FIXED.keys() | HARMLESS | _GENERATION.keys() | _SAMPLING


def note_generation(folder: Folder, config: Mapping[str, Any], name: str) -> None:
    """Notes what would make a generated verdict another than the most probable one."""
    moved = {key: config[key] for key, plain in _GENERATION.items() if key in config and config[key] not in plain}
    if moved:
        values = ", ".join(f"{key} {value!r:.40}" for key, value in moved.items())
        folder.note(f"{name} changes the scores of generated tokens ({values}); a guard reads the model's own scores")


def rope_parameters(folder: Folder, config: Mapping[str, Any]) -> dict[str, Any]:
    """The rope parameters as one object, with rope_theta and rope_type, wherever config.json has them.

    transformers 5 writes rope_parameters; 4 wrote rope_theta and rope_scaling, and configs exist that hold both.
    Raises CheckpointError where they contradict each other: what transformers takes then depends on its version.
    """
    places = {key: config[key] for key in ("rope_parameters", "rope_scaling") if config.get(key)}
    for key, value in places.items():
        if not isinstance(value, dict):
            raise CheckpointError(f"rope parameters in config.json are {value!r:.80}, expected an object")
        nested = sorted(name for name, inner in value.items() if isinstance(inner, dict))
        if nested:
            raise CheckpointError(f"rope parameters in config.json differ by layer type ({', '.join(nested)})")
        kinds = {value[name] for name in ("rope_type", "type") if isinstance(value.get(name), str)}
        if len(kinds) > 1:
            raise CheckpointError(
                f"{key} in config.json has rope_type {value['rope_type']!r:.40} and type {value['type']!r:.40}; remove "
                "the one that is wrong"
            )
    merged: dict[str, Any] = {}
    if "rope_theta" in config:
        places["the top level"] = {"rope_theta": config["rope_theta"]}
    for place, values in places.items():
        named = {("rope_type" if key == "type" else key): value for key, value in values.items()}
        if place != "the top level":
            named.setdefault("rope_type", "default")
        for key, value in named.items():
            _agree(key, merged.get(key), value, place)
            merged[key] = value if merged.get(key) is None else merged[key]
    merged.setdefault("rope_type", "default")
    if merged["rope_type"] != "default":
        _agree(_ROPE[-1], merged.get(_ROPE[-1]), config.get(_ROPE[-1]), "the top level")
    _check_rope(folder, merged)
    return merged


def _agree(key: str, one: Any, other: Any, place: str) -> None:
    if None not in (one, other) and one != other:
        raise CheckpointError(
            f"config.json contradicts itself: {key} is {one!r:.40} in the rope parameters and {other!r:.40} in "
            f"{place}; remove the one that is wrong"
        )


def _check_rope(folder: Folder, rope: Mapping[str, Any]) -> None:
    kind = rope["rope_type"]
    read = ROPE_TYPES.get(kind) if isinstance(kind, str) else None
    if read is None:
        raise CheckpointError(f"rope scaling in config.json is {kind!r:.40}; expected none, 'default' or 'llama3'")
    for key, allowed in _OTHER_ROPE.items():
        if key in rope and key not in read and rope[key] not in allowed:
            raise CheckpointError(
                f"rope parameters in config.json have {key} {rope[key]!r:.60}, and their type {kind!r} has none; "
                "name the type that is meant, or remove the key"
            )
    unread = sorted(key for key in rope if key not in read and key not in _OTHER_ROPE)
    if unread:
        folder.note(f"rope parameters in config.json have keys that nothing reads: {shown(unread)}")


def shown(names: list[str]) -> str:
    """A few names of maybe many, as JSON files may hold any."""
    return ", ".join(f"{name!r:.60}" for name in names[:12]) + (f" and {len(names) - 12} more" if names[12:] else "")
