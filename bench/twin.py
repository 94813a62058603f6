"""Twins: checkpoints with a published shape, layout and quirks, and random weights.

They answer "how fast, how large" before a 16 GB download; their verdicts mean nothing. Shapes, dtypes, shards
and verdict-token orders are those of the model cards and configs; where a value is not published, the row's
comment says so.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from guardpass.errors import InputError
from guardpass.export.atomic import check_target, new_directory

from .twin_tokenizer import write_tokenizer

_POOL = 4_194_301  # prime, so that no row length divides it and rows do not repeat


@dataclass(frozen=True)
class Twin:
    """What a published checkpoint looks like."""

    name: str
    verdicts: tuple[str, ...]  # in the order of their ids, which is not sorted
    template: str
    config: dict[str, Any]
    shards: int
    dtype: str = "BF16"


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
_8B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128264, "tie_word_embeddings": False,
}  # fmt: skip
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
)  # fmt: skip


def find(name: str) -> Twin:
    """The twin called `name`. Raises InputError, listing all, where there is none."""
    for row in TWINS:
        if row.name == name:
            return row
    raise InputError(f"unknown checkpoint {name!r}, expected one of: {', '.join(row.name for row in TWINS)}")


def tiny(row: Twin) -> Twin:
    """The same quirks in a few hundred kilobytes: wide heads stay wide, shards stay several."""
    config, heads = row.config, 4
    wide = config["num_attention_heads"] * config["head_dim"] != config["hidden_size"]
    small = {
        "hidden_size": 50 if wide else 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": heads, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 2048,
    }  # fmt: skip
    return replace(row, config=config | small, shards=min(2, row.shards))


def write_twin(row: Twin, out: Path, *, tokenizer: Path | None = None, seed: int = 0) -> None:
    """Write the checkpoint directory `out`. `tokenizer`: a directory whose tokenizer.json gives the vocabulary;
    without it a small one is trained on the spot. Raises InputError where `out` exists."""
    check_target(out, None)
    with new_directory(out) as partial:
        write_tokenizer(partial, row.verdicts, row.template, tokenizer, limit=row.config["vocab_size"])
        write_weights(partial, row, np.random.default_rng(seed))
        (partial / "config.json").write_text(json.dumps(row.config, indent=2))


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of a Llama checkpoint."""
    hidden, ffn, dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    table: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        table |= {
            f"{name}.input_layernorm.weight": (hidden,),
            f"{name}.self_attn.q_proj.weight": (q, hidden),
            f"{name}.self_attn.k_proj.weight": (kv, hidden),
            f"{name}.self_attn.v_proj.weight": (kv, hidden),
            f"{name}.self_attn.o_proj.weight": (hidden, q),
            f"{name}.post_attention_layernorm.weight": (hidden,),
            f"{name}.mlp.gate_proj.weight": (ffn, hidden),
            f"{name}.mlp.up_proj.weight": (ffn, hidden),
            f"{name}.mlp.down_proj.weight": (hidden, ffn),
        }
    table["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        table["lm_head.weight"] = (config["vocab_size"], hidden)
    return table


def write_weights(out: Path, row: Twin, rng: np.random.Generator) -> None:
    """Random weights as safetensors, sharded by tensor order, a few megabytes in memory at a time."""
    table = shapes(row.config)
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
                for chunk in _random(table[name], pool, rng):
                    stream.write(_as_dtype(chunk, row.dtype))
    if row.shards > 1:
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _random(
    shape: tuple[int, ...], pool: npt.NDArray[np.float32], rng: np.random.Generator
) -> Iterator[npt.NDArray[np.float32]]:
    """Values in order, from a random place of the pool: distinct in every tensor, at copying speed."""
    left, at = math.prod(shape), int(rng.integers(_POOL))
    while left:
        chunk = pool[at : at + left]
        # Norm gains scatter around 1; matrices keep the scale of what passes through them.
        yield 1 + 0.1 * chunk if len(shape) == 1 else chunk * np.float32(shape[1] ** -0.5)
        left, at = left - len(chunk), 0


def _as_dtype(values: npt.NDArray[np.float32], dtype: str) -> bytes:
    if dtype == "BF16":  # cut, not rounded: they are random anyway
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return values.astype({"F16": np.float16, "F32": np.float32}[dtype]).tobytes()
