"""The architectures: classes of decoders as a table, and the sizes of one of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .files import Array

Activation = Literal["silu", "gelu_tanh"]
# Which layers slide, where config.json does not list them: none, all, every other from the first, or the upper ones.
WindowRule = Literal["none", "all", "even", "upper"]


@dataclass(frozen=True)
class Kind:
    """What sets a class of decoders apart; the rest is sizes."""

    name: str  # in config.json's architectures
    model_type: str
    activation: Activation = "silu"
    norm_offset: float = 0.0  # what is added to a stored norm gain (Gemma stores w of 1 + w)
    mlp_norm: str = "post_attention_layernorm"
    post_norms: bool = False  # attention and MLP outputs are normed before they join the residual
    head_norms: bool = False  # queries and keys are normed head by head
    scaled_embedding: bool = False  # embeddings are multiplied by sqrt(hidden)
    windows: WindowRule = "none"
    # Of config.json's keys, as transformers has them; no other kind reads a key that stands in one kind's alone.
    defaults: Mapping[str, Any] = field(default_factory=dict)
    refuses: Mapping[str, str] = field(default_factory=dict)  # precisions it cannot run at, and why


KINDS = (
    Kind("LlamaForCausalLM", "llama", defaults={"max_position_embeddings": 2048}),
    Kind(
        "MistralForCausalLM",
        "mistral",
        windows="all",
        defaults={"max_position_embeddings": 131072, "sliding_window": 4096},
    ),
    Kind(
        "Qwen3ForCausalLM",
        "qwen3",
        head_norms=True,
        windows="upper",
        defaults={
            "max_position_embeddings": 32768,
            "head_dim": 128,
            "use_sliding_window": False,
            "sliding_window": 4096,
            "max_window_layers": 28,
        },
    ),
    Kind(
        "Gemma2ForCausalLM",
        "gemma2",
        activation="gelu_tanh",
        norm_offset=1.0,
        mlp_norm="pre_feedforward_layernorm",
        post_norms=True,
        scaled_embedding=True,
        windows="even",
        refuses={"fp16": "Gemma 2's activations grow beyond 65504, the largest number of float16, and become infinite"},
        defaults={
            "hidden_activation": "gelu_pytorch_tanh",
            "max_position_embeddings": 8192,
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "tie_word_embeddings": True,
        },
    ),
)


@dataclass(frozen=True)
class Architecture:
    """Sizes and constants of a decoder, in config.json's terms."""

    kind: Kind

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    context: int
    eps: float
    tied: bool  # the head is the embedding; false also where config.json ties them and the checkpoint has both
    rope_theta: float
    inv_freq: Array  # [head_dim / 2], radians per position: of rope_theta, scaled
    scale: float  # of attention scores
    softcap: float | None  # of attention scores
    final_softcap: float | None  # of the vocabulary's scores
    windows: tuple[int | None, ...]  # by layer: how many positions back a token sees, itself included

    @property
    def head(self) -> str:
        """Name of the tensor whose rows score the vocabulary."""
        return "model.embed_tokens.weight" if self.tied else "lm_head.weight"

    @property
    def streamed(self) -> int:
        """Weights that a walk through the decoder reads in chunks."""
        return sum(math.prod(s) for name, s in self.shapes().items() if len(s) == 2 and name != "lm_head.weight")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor the checkpoint must hold."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        layer = {
            "input_layernorm": (self.hidden,),
            "self_attn.q_proj": (q, self.hidden),
            "self_attn.k_proj": (kv, self.hidden),
            "self_attn.v_proj": (kv, self.hidden),
            "self_attn.o_proj": (self.hidden, q),
            "post_attention_layernorm": (self.hidden,),
            "mlp.gate_proj": (self.ffn, self.hidden),
            "mlp.up_proj": (self.ffn, self.hidden),
            "mlp.down_proj": (self.hidden, self.ffn),
        }
        if self.kind.post_norms:
            layer |= {"pre_feedforward_layernorm": (self.hidden,), "post_feedforward_layernorm": (self.hidden,)}
        if self.kind.head_norms:
            layer |= {"self_attn.q_norm": (self.head_dim,), "self_attn.k_norm": (self.head_dim,)}
        table: dict[str, tuple[int, ...]] = {
            f"model.layers.{i}.{name}.weight": shape for i in range(self.layers) for name, shape in layer.items()
        }
        table["model.embed_tokens.weight"] = (self.vocab, self.hidden)
        table["model.norm.weight"] = (self.hidden,)
        if not self.tied:
            table["lm_head.weight"] = (self.vocab, self.hidden)
        return table
