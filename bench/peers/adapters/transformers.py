"""transformers: `generate` for one token as model cards show it, or the forward pass alone.

options: path, threads, dtype ("bfloat16", "float32"), generate (bool).
"""

from pathlib import Path
from typing import Any

import torch

from guardpass.bench.reference import load_reference

PACKAGES = ("transformers", "torch")


def load(options: dict[str, Any]) -> Any:
    torch.set_num_threads(options["threads"])
    model = load_reference(Path(options["path"]), getattr(torch, options["dtype"]))

    def generate(ids: torch.Tensor) -> torch.Tensor:
        found = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False, pad_token_id=0,
            output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
        return found.scores[0][0]  # type: ignore[no-any-return]

    def forward(ids: torch.Tensor) -> torch.Tensor:
        return model(ids, logits_to_keep=1, use_cache=False).logits[0, -1]  # type: ignore[no-any-return]

    run = generate if options["generate"] else forward

    def judge(questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        with torch.inference_mode():
            found = [run(torch.tensor([each["ids"]]))[each["labels"]] for each in questions]
        return [
            {"label": int(scores.argmax()), "run": len(each["ids"])}
            for scores, each in zip(found, questions, strict=True)
        ]

    return judge
