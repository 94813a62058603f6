"""A checkpoint as one GGUF file that any llama.cpp opens, written a few rows at a time."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import ml_dtypes
import numpy as np
import numpy.typing as npt

from guardpass.errors import CheckpointError, InputError

from ..checkpoint.architecture import Architecture
from ..checkpoint.files import Checkpoint, Tensor
from .vocab import Vocabulary

_ALIGNMENT = 32
_DTYPES: dict[str, tuple[np.dtype[Any], int]] = {  # NumPy's and ggml's
    "f32": (np.dtype(np.float32), 0),
    "f16": (np.dtype(np.float16), 1),
    "bf16": (np.dtype(ml_dtypes.bfloat16), 30),
}
_FILE_TYPES = {"f32": 0, "f16": 1, "bf16": 32}


@dataclass(frozen=True)
class Layout:
    """llama.cpp's name of an architecture, and the form of its tensors."""

    name: str
    interleaved: bool = False  # rotary pairs side by side: rows of queries and keys are reordered
    windows: bool = False  # whether it knows sliding windows


# By config.json's model_type. llama.cpp's "llama" is Mistral's too, and slides in neither.
LAYOUTS: Mapping[str, Layout] = {
    "llama": Layout("llama", interleaved=True),
    "mistral": Layout("llama", interleaved=True),
    "qwen3": Layout("qwen3"),
    "gemma2": Layout("gemma2", windows=True),
}
_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def context_of(arch: Architecture) -> int:
    """The context of a GGUF: at most a sliding window that llama.cpp does not know, as within it nothing slides.

    Raises CheckpointError for what llama.cpp cannot compute as the checkpoint means it.
    """
    kind = arch.kind.model_type
    if kind == "gemma2":
        if not arch.tied:
            raise CheckpointError(
                f"llama.cpp runs {kind} with the embedding as its output head, and the checkpoint has another head; "
                "export to onnx instead"
            )
        # llama.cpp derives the scale: from the heads' size, but for 27B, which it knows by its 46 layers.
        scale = (arch.hidden // arch.heads if arch.layers == 46 else arch.head_dim) ** -0.5
        if not np.isclose(arch.scale, scale, rtol=1e-6) or None in (arch.softcap, arch.final_softcap):
            raise CheckpointError(
                f"llama.cpp runs {kind} with an attention scale of {scale:.6g} and with softcaps; config.json has "
                f"{arch.scale:.6g}, {arch.softcap}, {arch.final_softcap}; export to onnx instead"
            )
    if LAYOUTS[kind].windows and len(set(arch.windows) - {None}) <= 1:
        return arch.context
    return min([arch.context, *(window for window in arch.windows if window)])


def write_model(
    source: Checkpoint,
    arch: Architecture,
    vocabulary: Vocabulary,
    about: Mapping[str, str],
    dtype: str | None,
    path: Path,
    advance: Callable[[int], None],
) -> None:
    """Write the GGUF at f32, f16 or bf16; None keeps each tensor's own precision.

    about: general.* keys and the chat template. advance gets the weights done. Raises CheckpointError for weights
    that are not finite or that the precision cannot hold.
    """
    layout = LAYOUTS[arch.kind.model_type]
    writer = gguf.GGUFWriter(path, layout.name)
    _add_sizes(writer, arch, layout)
    _add_vocabulary(writer, vocabulary)
    for key, value in about.items():
        writer.add_string(key, value)
    writer.add_file_type(_FILE_TYPES[dtype or "f32"])
    plan: list[tuple[Tensor, np.dtype[Any]]] = []
    if (factors := _rope_factors(arch)) is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    for name in arch.shapes():
        tensor = source.tensors[name]
        stored = dtype or next(key for key, (numpy_dtype, _) in _DTYPES.items() if numpy_dtype == tensor.dtype)
        kind, number = _DTYPES[stored if len(tensor.shape) > 1 else "f32"]
        size = int(np.prod(tensor.shape)) * kind.itemsize
        writer.add_tensor_info(_name(name, arch), tensor.shape, kind, size, gguf.GGMLQuantizationType(number))
        plan.append((tensor, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("ab") as file:
        if factors is not None:
            _append(file, iter([factors]))
        for tensor, kind in plan:
            _append(file, (_converted(tensor, raw, kind, arch) for raw in _blocks(tensor, arch, layout)))
            advance(int(np.prod(tensor.shape)))


def license_of(source: Checkpoint) -> dict[str, str]:
    """general.license as the model card's front matter has it, where there is a card."""
    if not (source.directory / "README.md").is_file():
        return {}
    front = source.text("README.md").partition("---")[2].partition("\n---")[0]
    match = re.search(r"^license:\s*([\w.+-]+)\s*$", front, re.MULTILINE)
    return {"general.license": match[1]} if match else {}


def _add_sizes(writer: Any, arch: Architecture, layout: Layout) -> None:
    writer.add_context_length(context_of(arch))
    writer.add_embedding_length(arch.hidden)
    writer.add_block_count(arch.layers)
    writer.add_feed_forward_length(arch.ffn)
    writer.add_head_count(arch.heads)
    writer.add_head_count_kv(arch.kv_heads)
    writer.add_key_length(arch.head_dim)
    writer.add_value_length(arch.head_dim)
    writer.add_layer_norm_rms_eps(arch.eps)
    writer.add_rope_dimension_count(arch.head_dim)
    writer.add_rope_freq_base(arch.rope_theta)
    writer.add_vocab_size(arch.vocab)
    if layout.windows:
        # llama.cpp wants one layer at least to slide: where none does, all have a window that never ends.
        slides = [window is not None for window in arch.windows]
        writer.add_sliding_window(next((window for window in arch.windows if window), arch.context))
        writer.add_sliding_window_pattern(slides if any(slides) else [True] * arch.layers)
    if arch.softcap is not None:
        writer.add_attn_logit_softcapping(arch.softcap)
    if arch.final_softcap is not None:
        writer.add_final_logit_softcapping(arch.final_softcap)


def _add_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.splitting.model)
    writer.add_tokenizer_pre(vocabulary.splitting.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(vocabulary.splitting.space)
    if vocabulary.merges is not None:
        writer.add_token_merges(vocabulary.merges)
    for role, id in vocabulary.special.items():
        getattr(writer, f"add_{role}_token_id")(id)
    writer.add_add_bos_token(vocabulary.add_bos)


def _rope_factors(arch: Architecture) -> npt.NDArray[np.float32] | None:
    """What llama.cpp divides the plain frequencies by (llama3 scaling), [head_dim / 2]."""
    plain = 1.0 / arch.rope_theta ** (np.arange(0, arch.head_dim, 2) / arch.head_dim)
    factors = (plain / arch.inv_freq).astype(np.float32)
    return None if np.allclose(factors, 1, rtol=1e-6) else factors


def _name(name: str, arch: Architecture) -> str:
    part = name.removesuffix(".weight")
    if part in _TOP:
        return f"{_TOP[part]}.weight"
    _, _, layer, part = part.split(".", 3)
    # Llama's norm before the MLP is called as Gemma's norm after attention.
    after = {"post_attention_layernorm": "post_attention_norm" if arch.kind.post_norms else "ffn_norm"}
    return f"blk.{layer}.{(_NAMES | after)[part]}.weight"


def _blocks(tensor: Tensor, arch: Architecture, layout: Layout) -> Iterator[npt.NDArray[Any]]:
    """The rows in the order llama.cpp wants them, as stored."""
    if layout.interleaved and tensor.name.endswith(("q_proj.weight", "k_proj.weight")):
        order = np.arange(arch.head_dim).reshape(2, -1).T.ravel()
        for start in range(0, tensor.shape[0], arch.head_dim):
            yield tensor.raw(start, arch.head_dim)[order]
    else:
        for start, count in tensor.chunks():
            yield tensor.raw(start, count)


def _converted(tensor: Tensor, raw: npt.NDArray[Any], dtype: np.dtype[Any], arch: Architecture) -> npt.NDArray[Any]:
    data = tensor.widened(raw)  # proves that all are finite
    if len(tensor.shape) == 1:
        return data + np.float32(arch.kind.norm_offset if tensor.name.endswith("norm.weight") else 0)
    if raw.dtype == dtype:
        return raw
    with np.errstate(over="ignore"):
        converted: npt.NDArray[Any] = data.astype(dtype)
    if dtype == np.float16 and not np.isfinite(converted).all():
        raise InputError(f"quant f16 cannot hold {tensor.name}: it goes beyond 65504; choose bf16 or f32")
    return converted


def _append(file: BinaryIO, blocks: Iterator[npt.NDArray[Any]]) -> None:
    file.write(b"\0" * (-file.tell() % _ALIGNMENT))
    for block in blocks:
        file.write(np.ascontiguousarray(block).view(np.uint8).data)
    file.write(b"\0" * (-file.tell() % _ALIGNMENT))
