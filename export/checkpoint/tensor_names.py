"""Tensors that are not the architecture's: proved to repeat what is known, or named with a remedy."""

import re
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from guardpass.errors import CheckpointError

from .files import Array, Tensor

EMBEDDING, HEAD, ROTARY = "model.embed_tokens.weight", "lm_head.weight", "rotary_emb.inv_freq"

_FIRST = "layers.0.input_layernorm.weight"  # every architecture of the table has it
# What stands beside weights that were quantized: by bitsandbytes, AWQ, GPTQ, compressed-tensors, FP8, NVFP4.
_SCALES = re.compile(
    r"\.(weight_scale(_inv|_2)?|input_scale|weight_zero_point|weight_packed|weight_shape|weight_global_scale|"
    r"activation_scale|SCB|weight_format|qweight|qzeros|scales|g_idx|[kvq]_scale|"
    r"weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..*))$"
)
_ADAPTER = re.compile(r"\.(lora_[A-Za-z_]+|base_layer|modules_to_save|original_module)\.")
_WRAPPERS = {
    "base_model.model.": "of PEFT: merge the adapter (model.merge_and_unload()) and save the result",
    "module.": "of a training framework: save the model inside it",
    "_orig_mod.": "of torch.compile: save the model inside it",
}


def explain(missing: Collection[str], extra: Collection[str]) -> str | None:
    """One sentence on a whole checkpoint of another kind, where the names of its tensors show which."""
    adapter = sorted(name for name in extra if _ADAPTER.search(name))
    if adapter:
        return (
            f"the checkpoint holds an adapter beside its weights ({adapter[0]} and {len(adapter) - 1} more); merge it "
            "into them with peft (model.merge_and_unload(), then save_pretrained), and export the result"
        )
    scales = sorted(name for name in extra if _SCALES.search(name))
    if scales:
        return (
            f"the checkpoint holds the scales of quantized weights ({scales[0]} and {len(scales) - 1} more); export "
            "the original checkpoint, which guardpass quantizes itself"
        )
    first = f"model.{_FIRST}"
    prefix = next((name.removesuffix(_FIRST) for name in sorted(extra) if name.endswith(_FIRST)), None)
    if first not in missing or prefix is None:
        return None
    wrapper = prefix.removesuffix("model.") if prefix.endswith("model.") else prefix
    why = next((why for name, why in _WRAPPERS.items() if prefix.startswith(name)), None)
    if "language_model." in prefix or "text_model." in prefix:
        why = "of a model of several parts: load its text model with transformers and save_pretrained that alone"
    if not prefix:
        why = "that were saved without the model around the decoder: save the whole model, with its head"
    return (
        f"the tensors' names begin with {prefix!r}, expected 'model.': they are those "
        + (why or "of another class: save the model with transformers' save_pretrained")
        + (f" (or take {wrapper!r} off the names)" if wrapper and not why else "")
    )


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape hold the same values."""
    if one.dtype == other.dtype:
        return all(np.array_equal(_bits(one, *rows), _bits(other, *rows)) for rows in one.chunks())
    return all(np.array_equal(one.rows(*rows), other.rows(*rows)) for rows in one.chunks())


def _bits(tensor: Tensor, start: int, count: int) -> npt.NDArray[Any]:
    raw = tensor.raw(start, count)
    return raw.view(np.dtype(f"u{raw.itemsize}"))


def check_rotary(stored: Tensor, inv_freq: Array) -> None:
    """Raises CheckpointError where a stored rotary table is not the one that config.json's rope parameters give.

    transformers does not read it: it is a relic, and where it differs nobody can say which of the two was trained.
    """
    # Rounded by its own type, and computed by who knows what: a few units of the last place.
    step = {"float32": 2.0**-20, "float16": 2.0**-9, "bfloat16": 2.0**-7}[stored.dtype.name]
    least = 2.0**-24 if stored.dtype.name == "float16" else 0  # half its subnormals, where low frequencies end
    found = stored.read()
    if found.shape != inv_freq.shape or not np.allclose(found, inv_freq, rtol=step, atol=least):
        raise CheckpointError(
            f"{stored.name} holds other rotary frequencies than the rope parameters of config.json give; correct "
            "those, or save the checkpoint again with transformers, which drops the tensor"
        )
