"""Logs: a JSON object a line on stderr. They never hold a judged text, nor a hash of one."""

import json
import sys
import time
from typing import Any


def log(level: str, event: str, **values: Any) -> None:
    """Write one line. Callers pass numbers, names of ours and kinds of errors, never a text or a quotation of one."""
    stamp = time.time()
    when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(stamp)) + f".{int(stamp * 1000) % 1000:03d}Z"
    line = {"time": when, "level": level, "event": event} | {k: v for k, v in values.items() if v is not None}
    sys.stderr.write(json.dumps(line) + "\n")  # in one call, so that workers' lines do not mix


def show(sentence: str) -> None:
    """Print a sentence for a human, beside the log, where stderr is a terminal."""
    if sys.stderr.isatty():
        print(f"guardpass: {sentence}", file=sys.stderr, flush=True)
