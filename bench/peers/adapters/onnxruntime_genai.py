"""onnxruntime-genai: a Generator of which nothing but the prefill runs, rewound or made anew for every prompt.

options: path (a folder of its model builder), threads, keep (bool), context (tokens, default 2048).
"""

import json
from typing import Any

import numpy as np
import onnxruntime_genai

PACKAGES = ("onnxruntime-genai", "onnxruntime")


def load(options: dict[str, Any]) -> Any:
    config = onnxruntime_genai.Config(options["path"])
    session = {"model": {"decoder": {"session_options": {"intra_op_num_threads": options["threads"]}}}}
    config.overlay(json.dumps(session))
    model = onnxruntime_genai.Model(config)
    params = onnxruntime_genai.GeneratorParams(model)
    params.set_search_options(max_length=options.get("context", 2048), batch_size=1)
    generator = onnxruntime_genai.Generator(model, params)
    last: list[int] = []

    def one(question: dict[str, Any]) -> dict[str, Any]:
        nonlocal generator
        ids, kept = question["ids"], 0
        while options["keep"] and kept < min(len(last), len(ids) - 1) and last[kept] == ids[kept]:
            kept += 1
        if options["keep"]:
            generator.rewind_to(kept)
        else:
            generator = onnxruntime_genai.Generator(model, params)
        generator.append_tokens(np.array(ids[kept:], np.int32))
        last[:] = ids
        scores = generator.get_logits().reshape(-1)
        return {"label": int(scores[question["labels"]].argmax()), "run": len(ids) - kept}

    return lambda questions: [one(each) for each in questions]
