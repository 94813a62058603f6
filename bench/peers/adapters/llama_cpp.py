"""llama.cpp through llama-cpp-python; its cache keeps what a prompt has in common with the one before, or nothing.

options: path (a GGUF file), threads, keep (bool), flash (bool), ubatch (tokens), context (tokens, default 2048).
"""

from typing import Any

import llama_cpp
import numpy as np

PACKAGES = ("llama-cpp-python",)


def load(options: dict[str, Any]) -> Any:
    llama = llama_cpp.Llama(
        options["path"], n_ctx=options.get("context", 2048), n_batch=options["ubatch"], n_ubatch=options["ubatch"],
        n_threads=options["threads"], n_threads_batch=options["threads"], flash_attn=options["flash"], verbose=False,
    )  # fmt: skip
    last: list[int] = []

    def one(question: dict[str, Any]) -> dict[str, Any]:
        ids, kept = question["ids"], 0
        # The last token runs in any case, as its scores are what is asked for.
        while options["keep"] and kept < min(len(last), len(ids) - 1) and last[kept] == ids[kept]:
            kept += 1
        llama.n_tokens = kept
        llama.eval(ids[kept:])
        last[:] = ids
        scores = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llama.ctx, -1), (llama.n_vocab(),))
        return {"label": int(scores[question["labels"]].argmax()), "run": len(ids) - kept}

    return lambda questions: [one(each) for each in questions]
