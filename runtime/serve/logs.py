"""Logs: a JSON object a line on stderr. What was judged is never in them, nor a hash of it."""

import json
import sys
import time
from typing import Any


def log(level: str, event: str, **values: Any) -> None:
    """One line. Callers pass numbers, own names and kinds of errors: no text, and nothing that may quote it."""
    stamp = time.time()
    when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(stamp)) + f".{int(stamp * 1000) % 1000:03d}Z"
    line = {"time": when, "level": level, "event": event} | {k: v for k, v in values.items() if v is not None}
    sys.stderr.write(json.dumps(line) + "\n")  # at once, so that workers' lines do not mix
