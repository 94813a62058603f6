"""How a peer's process talks: one JSON value a line, on stdin and stdout. Nothing but the standard library, so that it
runs as a plain script in an environment where guardpass is not installed: `python -P protocol.py ADAPTER.py`.

    in   {"options": {...}, "affinity": [core] | None}          once, first
    out  {"ready": {"load_s": ..., "versions": {...}}}          or {"error": "..."}, and the process ends
    in   {"ask": [QUESTION, ...]}: all at hand at once          out  {"answers": [ANSWER, ...]} or {"error": "..."}
    in   {"memory": true}                                       out  {"resident_mb": ..., "peak_mb": ...}

QUESTION: {"text", "response": str | None, "ids": [int], "labels": [int], "steps": int}; `ids` are the checkpoint's own
prompt up to the slot, `labels` the tokens that may answer, `steps` how many the longest answer takes from there to its
last field. ANSWER: {"label": index into labels, "started", "ended": seconds of
time.perf_counter(), which on Linux is one clock for all processes, "split": {name: ms}, "run": tokens or None}.

An adapter is a Python file that imports its peer, and has
    PACKAGES: whose versions are reported
    load(options) -> judge, where judge(questions) gives for each {"label"} and, where it knows, "split" and "run"
    BATCHES = True, where judge is better given several questions at once than one after the other
"""

import contextlib
import importlib.util
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import IO, Any, TypedDict


class Question(TypedDict):
    """A text, and the same as the checkpoint's own prompt up to the slot."""

    text: str
    response: str | None
    ids: list[int]
    labels: list[int]
    steps: int


class Answer(TypedDict):
    """Which label scores best, when, and where the time went."""

    label: int
    started: float
    ended: float
    split: dict[str, float]
    run: int | None


Judge = Callable[[list[Question]], list[dict[str, Any]]]


def main() -> None:
    """Serve the adapter that the command line names."""
    given, said = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    # Peers print, from C too, and start processes that do: none of it may end up between our lines.
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    serve(lambda: _adapter(Path(sys.argv[1])), given, said)


def serve(open_adapter: Callable[[], ModuleType], given: Iterable[str], said: IO[str]) -> None:
    """Answer every line of `given`, until it ends. An error is an answer; only one in loading ends the process."""
    lines = iter(given)
    hello = json.loads(next(lines))
    try:
        if hello.get("affinity"):
            os.sched_setaffinity(0, hello["affinity"])
        adapter = open_adapter()
        start = time.perf_counter()
        judge: Judge = adapter.load(hello["options"])
        ready = {"load_s": time.perf_counter() - start, "versions": _versions(adapter.PACKAGES)}
    except Exception as error:
        _say(said, _failure(error))
        sys.exit(1)
    _say(said, {"ready": ready})
    batches = getattr(adapter, "BATCHES", False)
    for line in lines:
        try:
            _say(said, _reply(json.loads(line), judge, batches))
        except Exception as error:
            _say(said, _failure(error))


def memory() -> dict[str, float]:
    """Megabytes of this process and of those that it started: resident now, and the sum of their peaks."""
    resident = peak = 0.0
    for process in _processes():
        try:
            pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
            status = Path(f"/proc/{process}/status").read_text()
        except (OSError, IndexError):  # it has ended since
            continue
        resident += pages * resource.getpagesize() / 1e6
        peak += next((int(row.split()[1]) * 1.024e-3 for row in status.splitlines() if row.startswith("VmHWM")), 0.0)
    return {"resident_mb": resident, "peak_mb": peak}


def _processes() -> list[int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # A name in brackets, which may hold anything, comes before state and parent.
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [os.getpid()]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def _adapter(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("adapter", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _reply(asked: dict[str, Any], judge: Judge, batches: bool) -> dict[str, Any]:
    if asked.get("memory"):
        return memory()
    questions: list[Question] = asked["ask"]
    together = [questions] if batches else [[question] for question in questions]
    return {"answers": [answer for some in together for answer in _answers(judge, some)]}


def _answers(judge: Judge, questions: list[Question]) -> list[Answer]:
    started = time.perf_counter()
    found = judge(questions)
    ended = time.perf_counter()
    if len(found) != len(questions):
        raise ValueError(f"the adapter gave {len(found)} answers to {len(questions)} questions")
    return [
        {
            "label": int(each["label"]),
            "started": started,
            "ended": ended,
            "split": each.get("split", {}),
            "run": each.get("run"),
        }
        for each in found
    ]


def _versions(packages: Iterable[str]) -> dict[str, str]:
    """Of those that are installed: an adapter may name alternatives."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _failure(error: Exception) -> dict[str, str]:
    traceback.print_exception(error)
    return {"error": f"{type(error).__name__}: {error}"}


def _say(said: IO[str], value: dict[str, Any]) -> None:
    said.write(json.dumps(value) + "\n")
    said.flush()


if __name__ == "__main__":
    main()
