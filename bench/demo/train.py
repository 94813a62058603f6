"""Train the demo guard from scratch: python -m guardpass.bench.demo.train --out DIR

Two phases: the grammar's conversations, then the natural ones with some of the grammar's for rehearsal. About 20
minutes on 2 cores; deterministic on one machine and torch version.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from .chat import VERDICTS, render, train_tokenizer, wrap
from .data import Example, grammar_set, held_out_set, natural_set
from .encoding import Batch, batches, head_ids
from .evaluate import report, verdict_logits

GRAMMAR = 240_000  # conversations of the first phase
REHEARSAL = 24_000  # of the grammar, beside the natural ones in the second
VOCABULARY = 4_000
BATCH = 48
PEAK_RATE = 3e-3
SMOOTHING = 0.02


def build_model(tokenizer: Tokenizer) -> LlamaForCausalLM:
    """A small Llama: grouped-query attention, tied embeddings, 1.3 million parameters."""
    eos = tokenizer.token_to_id("<|eot_id|>")
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=2048,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
            tie_word_embeddings=True,
            attention_bias=False,
            mlp_bias=False,
            hidden_act="silu",
            initializer_range=0.05,
            bos_token_id=tokenizer.token_to_id("<|begin_of_text|>"),
            eos_token_id=eos,
            pad_token_id=eos,
            use_cache=True,
        )
    )


def batch_loss(model: LlamaForCausalLM, head: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Cross-entropy over the whole vocabulary at the one position after each prompt.

    The head is the same for all rows: it is computed once and its keys and values are shared.
    """
    cache: Any = DynamicCache(config=model.config)
    model.model(input_ids=head[None], past_key_values=cache, use_cache=True)
    rows = batch.ids.shape[0]
    for layer in cache.layers:
        layer.keys = layer.keys.expand(rows, -1, -1, -1)
        layer.values = layer.values.expand(rows, -1, -1, -1)
    hidden = model.model(input_ids=batch.ids, past_key_values=cache, use_cache=True).last_hidden_state
    logits = model.lm_head(hidden[torch.arange(rows), batch.last])
    return functional.cross_entropy(logits, batch.targets, label_smoothing=SMOOTHING)


def fit(model: LlamaForCausalLM, tokenizer: Tokenizer, examples: list[Example], peak: float) -> None:
    """Muon and AdamW with warm-up and linear decay to zero; prints the loss."""
    head = torch.tensor(head_ids(tokenizer))
    matrices = [p for p in model.model.layers.parameters() if p.dim() > 1]
    inner = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inner]
    # Muon (orthogonalized updates) on the inner matrices needs far fewer steps here than AdamW alone.
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, weight_decay=0.01, betas=(0.9, 0.98)),
    ]
    total, warm, mean, began = -(-len(examples) // BATCH), 100, 2.0, time.monotonic()
    print(f"{len(examples)} conversations, {sum(p.numel() for p in model.parameters())} parameters", flush=True)
    model.train()
    for step, batch in enumerate(batches(tokenizer, examples, BATCH, seed=0)):
        rate = peak * min((step + 1) / warm, (total - step) / (total - warm))
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        loss = batch_loss(model, head, batch)
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        mean += 0.02 * (float(loss.detach()) - mean)
        if step % 100 == 99:
            print(f"step {step + 1}/{total} loss {mean:.3f} {time.monotonic() - began:.0f} s", flush=True)
    model.train(False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo guard.")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--after", type=Path, help="checkpoint folder of the first phase, to run the second alone")
    parser.add_argument("--count", type=int, default=GRAMMAR, help="conversations of the first phase")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.after is None:
        examples = grammar_set(options.count)
        tokenizer = train_tokenizer((render(e.user, e.assistant) for e in examples), VOCABULARY)
        model = build_model(tokenizer)
        fit(model, tokenizer, examples, PEAK_RATE)
    else:
        tokenizer = Tokenizer.from_file(str(options.after / "tokenizer.json"))
        model = LlamaForCausalLM.from_pretrained(options.after, dtype=torch.float32)
    first = [parameter.detach().clone() for parameter in model.parameters()]
    fit(model, tokenizer, natural_set() + grammar_set(REHEARSAL, seed=1), PEAK_RATE / 2)
    # The mean of both phases does better on new wording than either (Wortsman et al., arXiv 2109.01903).
    for parameter, before in zip(model.parameters(), first, strict=True):
        parameter.data = (parameter.data + before) / 2
    model.bfloat16().save_pretrained(options.out)  # float32 would double the folder
    wrap(tokenizer).save_pretrained(options.out, save_jinja_files=False)  # template in tokenizer_config.json
    held_out = held_out_set()
    print(report(held_out, verdict_logits(options.out, held_out), VERDICTS))


if __name__ == "__main__":
    main()
