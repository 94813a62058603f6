"""Held-out accuracy of a checkpoint: python -m guardpass.bench.demo.evaluate [DIR]"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from .chat import VERDICTS
from .data import HERE, Example, held_out_set


@torch.no_grad()
def verdict_logits(folder: Path, examples: Sequence[Example]) -> torch.Tensor:
    """Logits of the verdict tokens after each prompt, in float32 from the stored bfloat16 weights."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train(False)
    columns = [tokenizer.convert_tokens_to_ids(name) for name in VERDICTS]
    rows, free = [], 0
    for example in examples:
        messages = [{"role": "user", "content": example.user}]
        if example.assistant:
            messages.append({"role": "assistant", "content": example.assistant})
        prompt = tokenizer.apply_chat_template(messages, tokenize=False)
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
        logits = model(ids).logits[0, -1]
        free += int(logits.argmax()) not in columns
        rows.append(logits[columns])
    print(f"{free} of {len(rows)} argmaxes over the whole vocabulary are no verdict")
    return torch.stack(rows)


def report(examples: Sequence[Example], logits: torch.Tensor, names: Sequence[str]) -> str:
    """Accuracy by group and the smallest margins, as text."""
    said = [names[int(at)] for at in logits.argmax(dim=1)]
    top = logits.topk(2, dim=1).values
    margins = (top[:, 0] - top[:, 1]).tolist()
    groups: dict[str, Callable[[Example], str]] = {
        "all": lambda _: "all",
        "language": lambda e: e.lang,
        "mode": lambda e: e.mode,
        "label": lambda e: e.label,
    }
    lines = []
    for group, key in groups.items():
        for value in sorted({key(e) for e in examples}):
            picked = [at for at, e in enumerate(examples) if key(e) == value]
            binary = sum((said[at] == names[0]) == (examples[at].label == names[0]) for at in picked)
            exact = sum(said[at] == examples[at].label for at in picked)
            share = f"binary {binary / len(picked):.3f} category {exact / len(picked):.3f}"
            lines.append(f"{group:9} {value:12} n={len(picked):3} {share}")
    ordered = sorted(margins)
    lines.append("smallest margins " + " ".join(f"{margin:.2f}" for margin in ordered[:10]))
    lines.append(f"margins: 5th percentile {ordered[len(ordered) // 20]:.2f}, median {ordered[len(ordered) // 2]:.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    held_out = held_out_set()
    checkpoint = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "checkpoint"
    print(report(held_out, verdict_logits(checkpoint, held_out), VERDICTS))
