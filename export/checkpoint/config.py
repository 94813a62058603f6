"""config.json, read into an architecture and held against the checkpoint's tensors."""

import math
from typing import Any

import numpy as np

from guardpass.errors import CheckpointError

from .architecture import KINDS, Activation, Architecture, Kind
from .files import Array, Checkpoint

_ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


def read_architecture(checkpoint: Checkpoint) -> Architecture:
    """The architecture of a checkpoint. Raises CheckpointError for one that is not in the table, or whose
    tensors are not those that config.json promises."""
    classes = checkpoint.config.get("architectures")
    kind = next((kind for kind in KINDS if [kind.name] == classes), None)
    if kind is None or checkpoint.config.get("model_type", kind.model_type) != kind.model_type:
        raise CheckpointError(
            f"architectures in config.json is {classes!r}, expected one of: {', '.join(kind.name for kind in KINDS)}"
        )
    config = {**kind.defaults, **checkpoint.config}
    activation = config.get("hidden_activation") or config.get("hidden_act", "silu")
    if _ACTIVATIONS.get(activation if isinstance(activation, str) else "") != kind.activation:
        raise CheckpointError(f"the activation in config.json is {activation!r}; {kind.name} has {kind.activation}")
    for key, plain in _PLAIN.items():
        if config.get(key, plain) != plain:
            raise CheckpointError(f"{key} in config.json is {config[key]!r}; only {plain!r} is supported")
    hidden, heads = _count(config, "hidden_size"), _count(config, "num_attention_heads")
    # Absent and null both mean hidden / heads; a published one may differ from it (Kanana 2.1B: 24 x 128, 1792).
    head_dim = _count(config, "head_dim") if config.get("head_dim") is not None else hidden // heads
    if head_dim == 0:
        raise CheckpointError(f"config.json has {heads} heads in a hidden size of {hidden}: nothing for each")
    layers = _count(config, "num_hidden_layers", limit=_LAYERS)
    scalar = config.get("query_pre_attn_scalar")
    theta, inv_freq = _rope(config, head_dim)
    architecture = Architecture(
        kind=kind,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=_count(config, "num_key_value_heads") if config.get("num_key_value_heads") is not None else heads,
        head_dim=head_dim,
        ffn=_count(config, "intermediate_size"),
        vocab=_count(config, "vocab_size"),
        context=_count(config, "max_position_embeddings"),
        eps=_number(config, "rms_norm_eps", 1e-6),
        tied=config.get("tie_word_embeddings", False) is True,
        rope_theta=theta,
        inv_freq=inv_freq,
        scale=(head_dim if scalar is None else _number(config, "query_pre_attn_scalar")) ** -0.5,
        softcap=_optional(config, "attn_logit_softcapping"),
        final_softcap=_optional(config, "final_logit_softcapping"),
        windows=_windows(kind, config, layers),
    )
    if architecture.heads % architecture.kv_heads or head_dim % 2:
        raise CheckpointError(
            f"config.json has {heads} heads, {architecture.kv_heads} key-value heads of {head_dim}; expected "
            "heads in equal groups, of even size"
        )
    _check_tensors(checkpoint, architecture)
    return architecture


_LAYERS = 1 << 10  # several times the deepest Llama; more would only fill memory with tensor names
_LAYER_TYPES = {"full_attention", "sliding_attention"}
_PLAIN = {
    "attention_bias": False,
    "mlp_bias": False,
    "partial_rotary_factor": 1.0,
    "quantization_config": None,
    "use_bidirectional_attention": None,
}


def _windows(kind: Kind, config: dict[str, Any], layers: int) -> tuple[int | None, ...]:
    """Sliding windows by layer, by the rules of transformers' configuration classes."""
    if kind.windows == "none" or config.get("sliding_window") is None:
        return (None,) * layers
    if kind.windows == "upper" and not config.get("use_sliding_window", False):
        return (None,) * layers
    window, types = _count(config, "sliding_window"), config.get("layer_types")
    if kind.windows == "all":
        slides = [True] * layers
    elif types is None and kind.windows == "even":
        slides = [layer % 2 == 0 for layer in range(layers)]
    elif types is None:
        slides = [layer >= _count(config, "max_window_layers") for layer in range(layers)]
    elif isinstance(types, list) and len(types) == layers and {*map(str, types)} <= _LAYER_TYPES:
        slides = [each == "sliding_attention" for each in types]
    else:
        raise CheckpointError(
            f"layer_types in config.json is {types!r:.80}, expected {layers} of {', '.join(sorted(_LAYER_TYPES))}"
        )
    return tuple(window if slide else None for slide in slides)


def _optional(config: dict[str, Any], key: str) -> float | None:
    return None if config.get(key) is None else _number(config, key)


def _check_tensors(checkpoint: Checkpoint, architecture: Architecture) -> None:
    expected = architecture.shapes()
    found = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    # Old exports store the rotary table, and some store the tied head; both repeat what is known.
    repeated = {name for name in found if name.endswith("rotary_emb.inv_freq")}
    repeated |= {"lm_head.weight"} if architecture.tied else set()
    missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys() - repeated
    wrong = [name for name in expected.keys() & found.keys() if expected[name] != found[name]]
    if missing or extra or wrong:
        shown = [f"{name} is {list(found[name])}, expected {list(expected[name])}" for name in sorted(wrong)[:3]]
        shown += [f"{name} is missing" for name in sorted(missing)[:3]]
        shown += [f"{name} is not part of this architecture" for name in sorted(extra)[:3]]
        raise CheckpointError(
            f"config.json and the tensors disagree in {len(missing) + len(extra) + len(wrong)} places: "
            + "; ".join(shown)
        )


def _rope(config: dict[str, Any], head_dim: int) -> tuple[float, Array]:
    """Theta, and the rotary frequencies, computed in float32 as transformers does.

    llama3 scaling: Llama 3.1 model card and transformers' modeling_rope_utils.
    """
    # transformers 5 writes rope_parameters; 4 wrote rope_theta and rope_scaling.
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise CheckpointError(f"rope parameters in config.json are {rope!r}, expected an object")
    theta = _number(rope, "rope_theta", _number(config, "rope_theta", 10000.0))
    plain: Array = (1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)).astype(np.float32)
    nested = sorted(key for key, value in rope.items() if isinstance(value, dict))
    if nested:
        raise CheckpointError(f"rope parameters in config.json differ by layer type ({', '.join(nested)})")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, plain
    if kind != "llama3":
        raise CheckpointError(f"rope scaling in config.json is {kind!r}; expected none, 'default' or 'llama3'")
    factor, low, high, original = (
        _number(rope, key)
        for key in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    if low >= high:
        raise CheckpointError(f"rope scaling in config.json has low_freq_factor {low}, expected less than {high}")
    wavelength = 2 * math.pi / plain
    smooth = np.clip((original / wavelength - low) / (high - low), 0, 1)
    scaled: Array = ((1 - smooth) * plain / factor + smooth * plain).astype(np.float32)
    return theta, scaled


def _count(config: dict[str, Any], key: str, *, limit: int = 1 << 24) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < limit:
        raise CheckpointError(f"{key} in config.json is {value!r:.80}, expected a count from 1 to {limit - 1}")
    return value


def _number(config: dict[str, Any], key: str, default: float | None = None) -> float:
    value = config.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e30:
        raise CheckpointError(f"{key} in config.json is {value!r:.80}, expected a positive number below 1e30")
    return float(value)
