"""How a peer's process talks: one JSON value a line, on stdin and stdout. Nothing but the standard library, so that it
runs as a plain script in an environment where guardpass is not installed.

    in   {"engine": "transformers", "options": {...}}          once, first
    out  {"ready": {"load_s": ..., "versions": {...}}}          or {"error": "..."}
    in   {"ask": [QUESTION, ...]}: all at hand at once          out  {"answers": [ANSWER, ...]}
    in   {"memory": true}                                       out  {"resident_mb": ..., "peak_mb": ...}

QUESTION: {"text", "response": str | None, "ids": [int], "labels": [int]}; `ids` are the checkpoint's own prompt up to
the slot, `labels` the tokens that may answer. ANSWER: {"label": index into labels, "started", "ended": seconds of
time.perf_counter(), which on Linux is one clock for all processes, "split": {name: ms}, "run": tokens or None}.
"""
