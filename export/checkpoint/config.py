"""config.json, read into an architecture and held against the checkpoint's tensors."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from guardpass.errors import CheckpointError

from .architecture import KINDS, Activation, Architecture, Kind
from .config_keys import check_keys, rope_parameters
from .files import Array, Checkpoint
from .tensor_names import EMBEDDING, HEAD, ROTARY, check_rotary, explain, same

_ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


def read_architecture(checkpoint: Checkpoint) -> Architecture:
    """The architecture of a checkpoint; notes in it what of config.json and the tensors is not used.

    Raises CheckpointError for one that is not in the table, whose tensors are not those that config.json promises, or
    that says two things at once."""
    classes = checkpoint.config.get("architectures")
    kind = next((kind for kind in KINDS if [kind.name] == classes), None)
    if kind is None or checkpoint.config.get("model_type", kind.model_type) != kind.model_type:
        raise CheckpointError(
            f"architectures in config.json is {classes!r}, expected one of: {', '.join(kind.name for kind in KINDS)}"
        )
    config = {**kind.defaults, **checkpoint.config}
    check_keys(checkpoint, config, kind)
    activation = config.get("hidden_activation" if "hidden_activation" in kind.defaults else "hidden_act", "silu")
    if _ACTIVATIONS.get(activation if isinstance(activation, str) else "") != kind.activation:
        raise CheckpointError(f"the activation in config.json is {activation!r}; {kind.name} has {kind.activation}")
    hidden, heads = _count(config, "hidden_size"), _count(config, "num_attention_heads")
    # Absent and null both mean hidden / heads; a published one may differ from it (Kanana 2.1B: 24 x 128, 1792).
    head_dim = _count(config, "head_dim") if config.get("head_dim") is not None else hidden // heads
    if head_dim == 0:
        raise CheckpointError(f"config.json has {heads} heads in a hidden size of {hidden}: nothing for each")
    layers = _count(config, "num_hidden_layers", limit=_LAYERS)
    own = {key: config.get(key) for key in kind.defaults}  # a key that transformers reads of other kinds alone is none
    tied = config.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise CheckpointError(f"tie_word_embeddings in config.json is {tied!r:.80}, expected true or false")
    theta, inv_freq = _rope(rope_parameters(checkpoint, config), head_dim)
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
        tied=tied and HEAD not in checkpoint.tensors,
        rope_theta=theta,
        inv_freq=inv_freq,
        scale=(_optional(own, "query_pre_attn_scalar") or head_dim) ** -0.5,
        softcap=_optional(own, "attn_logit_softcapping"),
        final_softcap=_optional(own, "final_logit_softcapping"),
        windows=_windows(kind, config, layers),
    )
    if architecture.heads % architecture.kv_heads or head_dim % 2:
        raise CheckpointError(
            f"config.json has {heads} heads, {architecture.kv_heads} key-value heads of {head_dim}; expected "
            "heads in equal groups, of even size"
        )
    _check_tensors(checkpoint, architecture)
    return replace(architecture, tied=True) if tied and _is_tied(checkpoint) else architecture


_LAYERS = 1 << 10  # several times the deepest Llama; more would only fill memory with tensor names
_LAYER_TYPES = {"full_attention", "sliding_attention"}


def _windows(kind: Kind, config: dict[str, Any], layers: int) -> tuple[int | None, ...]:
    """Sliding windows by layer, by the rules of transformers' configuration classes."""
    types = config.get("layer_types")
    known = types is None or (isinstance(types, list) and {*map(str, types)} <= _LAYER_TYPES)
    if not known or (types is not None and len(types) != layers):
        raise CheckpointError(
            f"layer_types in config.json is {types!r:.80}, expected {layers} of {', '.join(sorted(_LAYER_TYPES))}"
        )
    off = kind.windows == "none" or (kind.windows == "upper" and not config["use_sliding_window"])
    if off or config.get("sliding_window") is None:
        slides = [False] * layers
    elif kind.windows == "all":
        slides = [True] * layers
    elif types is not None:
        slides = [each == "sliding_attention" for each in types]
    elif kind.windows == "even":
        slides = [layer % 2 == 0 for layer in range(layers)]
    else:
        slides = [layer >= _count(config, "max_window_layers") for layer in range(layers)]
    if types is not None and slides != [each == "sliding_attention" for each in types]:
        raise CheckpointError(
            f"config.json contradicts itself: {types.count('sliding_attention')} of {layers} layers slide by "
            f"layer_types, and {sum(slides)} by its other keys; remove what is wrong"
        )
    window = _count(config, "sliding_window") if any(slides) else None
    return tuple(window if slide else None for slide in slides)


def _optional(config: dict[str, Any], key: str) -> float | None:
    return None if config.get(key) is None else _number(config, key)


def _check_tensors(checkpoint: Checkpoint, architecture: Architecture) -> None:
    expected = architecture.shapes()
    found = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    # Old exports store the rotary table of every layer, which repeats what config.json says, or contradicts it.
    rotary = {name for name in found if name.endswith(ROTARY)}
    missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys() - rotary
    wrong = [name for name in expected.keys() & found.keys() if expected[name] != found[name]]
    if missing or extra or wrong:
        shown = [f"{name} is {list(found[name])}, expected {list(expected[name])}" for name in sorted(wrong)[:3]]
        shown += [f"{name} is missing" for name in sorted(missing)[:3]]
        shown += [f"{name} is not part of this architecture" for name in sorted(extra)[:3]]
        raise CheckpointError(
            explain(missing, extra)
            or f"config.json and the tensors disagree in {len(missing) + len(extra) + len(wrong)} places: "
            + "; ".join(shown)
        )
    for name in sorted(rotary):
        check_rotary(checkpoint.tensors[name], architecture.inv_freq)


def _is_tied(checkpoint: Checkpoint) -> bool:
    """Whether the head is the embedding where config.json says so: not where both are stored, and differ.

    So does transformers 5; 4 drops the stored head. It is left behind by a tuning that trains new verdict tokens.
    """
    stored = checkpoint.tensors.get(HEAD)
    if stored is None or same(stored, checkpoint.tensors[EMBEDDING]):
        return True
    checkpoint.note(
        f"config.json ties the output head to the embedding, and {HEAD} differs from {EMBEDDING}: the stored head is "
        "used, as by transformers 5"
    )
    return False


def _rope(rope: dict[str, Any], head_dim: int) -> tuple[float, Array]:
    """Theta, and the rotary frequencies, computed in float32 as transformers does.

    llama3 scaling: Llama 3.1 model card and transformers' modeling_rope_utils.
    """
    theta = _number(rope, "rope_theta", 10000.0)
    plain: Array = (1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)).astype(np.float32)
    if rope["rope_type"] == "default":
        return theta, plain
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
