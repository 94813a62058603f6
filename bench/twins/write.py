"""Writes a twin: config.json, tokenizer and random weights, whole or with a tiny shape."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from guardpass.export.checkpoint.files import Folder
from guardpass.export.checkpoint.twin_file import TwinFile
from guardpass.export.guard_dir.atomic import check_target, new_directory

from .published import Twin
from .tokenizer import write_tokenizer

_POOL = 4_194_301  # prime, so that no row length divides it and rows do not repeat


def tiny(row: Twin) -> Twin:
    """The same quirks in a few hundred kilobytes: wide heads stay wide, windows alternate, shards stay several."""
    config, heads, dim = row.config, 4, 16
    published, width = config["hidden_size"], config["num_attention_heads"] * config["head_dim"]
    if width > published:  # Kanana's is not even a multiple of its heads
        hidden = 48 if published % config["num_attention_heads"] == 0 else 50
    else:
        hidden = heads * dim if width == published else 80
    small: dict[str, Any] = {
        "hidden_size": hidden,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "head_dim": dim,
        "vocab_size": 2048,
        "max_position_embeddings": 8192,
    }
    if config.get("rope_scaling"):
        small["rope_scaling"] = config["rope_scaling"] | {"original_max_position_embeddings": 64}
    if config["model_type"] == "gemma2":
        # Published, the scale of scores differs from head_dim in the largest only.
        small |= {"num_hidden_layers": 4, "sliding_window": 24, "query_pre_attn_scalar": 18}
    return replace(row, config=config | small, shards=min(2, row.shards))


def write_twin(row: Twin, out: Path, *, tokenizer: Path | None = None, seed: int = 0) -> None:
    """Write the checkpoint directory `out`. `tokenizer`: a directory whose tokenizer.json gives the vocabulary;
    without it a small one is trained on the spot. Raises InputError where `out` exists."""
    check_target(out, None)
    with new_directory(out) as partial:
        limit = row.config["vocab_size"]
        write_tokenizer(partial, row.verdicts, row.template, tokenizer, kind=row.tokenizer, limit=limit)
        write_weights(partial, row, np.random.default_rng(seed))
        (partial / "config.json").write_text(json.dumps(row.config, indent=2))
        TwinFile(row.family, row.date).write(Folder(partial))


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of a checkpoint, in the order of its shards."""
    hidden, ffn, dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    gemma, qwen = config["model_type"] == "gemma2", config["model_type"] == "qwen3"
    layer = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (q, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, q),
        **({"self_attn.q_norm": (dim,), "self_attn.k_norm": (dim,)} if qwen else {}),
        "post_attention_layernorm": (hidden,),
        **({"pre_feedforward_layernorm": (hidden,), "post_feedforward_layernorm": (hidden,)} if gemma else {}),
        "mlp.gate_proj": (ffn, hidden),
        "mlp.up_proj": (ffn, hidden),
        "mlp.down_proj": (hidden, ffn),
    }
    table: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for index in range(config["num_hidden_layers"]):
        table |= {f"model.layers.{index}.{name}.weight": shape for name, shape in layer.items()}
    table["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings", gemma):
        table["lm_head.weight"] = (config["vocab_size"], hidden)
    return table


def write_weights(out: Path, row: Twin, rng: np.random.Generator) -> None:
    """Random weights as safetensors, sharded by tensor order, a few megabytes in memory at a time."""
    table = shapes(row.config)
    gain = 0 if row.config["model_type"] == "gemma2" else 1  # Gemma stores w of the gain 1 + w
    width = 4 if row.dtype == "F32" else 2
    total = sum(math.prod(shape) for shape in table.values()) * width
    shards: list[list[str]] = [[] for _ in range(row.shards)]
    written = 0
    for name, shape in table.items():
        shards[min(row.shards - 1, written * row.shards // total)].append(name)
        written += math.prod(shape) * width
    pool = rng.standard_normal(_POOL, dtype=np.float32)
    files = [f"model-{i + 1:05}-of-{row.shards:05}.safetensors" for i in range(row.shards)]
    files = files if row.shards > 1 else ["model.safetensors"]
    for file, names in zip(files, shards, strict=True):
        header, offset = {}, 0
        for name in names:
            end = offset + math.prod(table[name]) * width
            header[name] = {"dtype": row.dtype, "shape": list(table[name]), "data_offsets": [offset, end]}
            offset = end
        encoded = json.dumps(header).encode()
        encoded += b" " * (-len(encoded) % 8)
        with (out / file).open("wb") as stream:
            stream.write(len(encoded).to_bytes(8, "little") + encoded)
            for name in names:
                for chunk in _random(table[name], gain, pool, rng):
                    stream.write(_as_dtype(chunk, row.dtype))
    if row.shards > 1:
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _random(
    shape: tuple[int, ...], gain: int, pool: npt.NDArray[np.float32], rng: np.random.Generator
) -> Iterator[npt.NDArray[np.float32]]:
    """Values in order, from a random place of the pool: distinct in every tensor, at copying speed."""
    left, at = math.prod(shape), int(rng.integers(_POOL))
    while left:
        chunk = pool[at : at + left]
        # Norm gains scatter around 1; matrices keep the scale of what passes through them.
        yield gain + 0.1 * chunk if len(shape) == 1 else chunk * np.float32(shape[1] ** -0.5)
        left, at = left - len(chunk), 0


def _as_dtype(values: npt.NDArray[np.float32], dtype: str) -> bytes:
    if dtype == "BF16":  # cut, not rounded: they are random anyway
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return values.astype({"F16": np.float16, "F32": np.float32}[dtype]).tobytes()
