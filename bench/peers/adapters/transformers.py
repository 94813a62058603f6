"""transformers: `generate` for one token as model cards show it, or for all of the longest answer; or the forward pass
alone.

options: path, threads, dtype ("bfloat16", "float32"), generate (bool), whole (bool, of generate).
"""

from pathlib import Path
from typing import Any

import torch

from guardpass.bench.reference import load_reference

PACKAGES = ("transformers", "torch")


def load(options: dict[str, Any]) -> Any:
    torch.set_num_threads(options["threads"])
    model = load_reference(Path(options["path"]), getattr(torch, options["dtype"]))

    def generate(ids: torch.Tensor, steps: int) -> torch.Tensor:
        found = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=steps,
            max_new_tokens=steps,
            do_sample=False,
            pad_token_id=0,
            output_scores=True,
            return_dict_in_generate=True,
        )
        return found.scores[0][0]  # type: ignore[no-any-return]

    def forward(ids: torch.Tensor, _: int) -> torch.Tensor:
        return model(ids, logits_to_keep=1, use_cache=False).logits[0, -1]  # type: ignore[no-any-return]

    run = generate if options["generate"] else forward

    def judge(questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        steps = [each["steps"] if options.get("whole") else 1 for each in questions]
        with torch.inference_mode():
            found = [
                run(torch.tensor([each["ids"]]), count)[each["labels"]]
                for each, count in zip(questions, steps, strict=True)
            ]
        return [
            {"label": int(scores.argmax()), "run": len(each["ids"]) + count - 1}
            for scores, each, count in zip(found, questions, steps, strict=True)
        ]

    return judge
