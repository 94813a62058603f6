"""llama.cpp through llama-cpp-python; its cache keeps what a prompt has in common with the one before, or nothing.

options: path (a GGUF file), threads, keep (bool), flash (bool), ubatch (tokens), context (tokens, default 2048), repack
(bool: weights in layouts of its own, among them that of Intel AMX's tiles).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as low_level

PACKAGES = ("llama-cpp-python",)


@contextmanager
def repacking(wanted: bool) -> Iterator[None]:
    """`Llama` is made with weights in llama.cpp's own layouts, or without: it has no option for that itself."""
    defaults = low_level.llama_model_default_params()
    defaults.use_extra_bufts = wanted
    with mock.patch.object(low_level, "llama_model_default_params", return_value=defaults):
        yield


def load(options: dict[str, Any]) -> Any:
    with repacking(options["repack"]):
        llama = llama_cpp.Llama(
            options["path"],
            n_ctx=options.get("context", 2048),
            n_batch=options["ubatch"],
            n_ubatch=options["ubatch"],
            n_threads=options["threads"],
            n_threads_batch=options["threads"],
            flash_attn=options["flash"],
            verbose=False,
        )
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
