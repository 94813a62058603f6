"""What one pass over a verdict tree costs: `python -m guardpass.bench.trees --work DIR --tokenizers DIR`.

On shape twins in int8: four policies of ShieldGemma 2B in one pass, one after another, and one alone; the three
fields of wildguard-ko beside its one of mode prompt; and wildguard-ko and Llama Guard 3 1B beside transformers'
bf16 generate on prompts of as many tokens. All are called in turn, and a ratio is the median over the turns.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from guardpass import Guard
from guardpass.content import ContentTokenizer
from guardpass.describe import describe
from guardpass.engines.cpu import usable_cores
from guardpass.export import export_guard
from guardpass.integrity import open_guard
from guardpass.manifest import Mode

from .measure import machine, serve, text_of
from .twin import find, write_twin

Call = Callable[[str], object]


@dataclass(frozen=True)
class Subject:
    """A twin, how it is exported, and where its real tokenizer lies."""

    twin: str
    family: str
    tokenizer: str
    date: str | None = None


SHIELD = Subject("shieldgemma-2b", "shieldgemma", "gemma3")
WILD = Subject("wildguard-ko-3b", "wildguard-ko", "kanana-safeguard-8b", "2024-07-26")
LLAMA = Subject("llama-guard-3-1b", "llama-guard-3-1b", "kanana-safeguard-8b")


def prepare(subject: Subject, work: Path, tokenizers: Path, layers: int | None) -> tuple[Path, Path]:
    """Checkpoint and int8 guard, made where they are not there yet."""
    name = subject.twin + (f"-{layers}-layers" if layers else "")
    checkpoint, guard = work / name, work / f"{name}-int8"
    if not checkpoint.exists():
        row = find(subject.twin)
        if layers:
            row = replace(row, config=row.config | {"num_hidden_layers": layers})
        write_twin(row, checkpoint, tokenizer=tokenizers / subject.tokenizer)
    if not guard.exists():
        export_guard(checkpoint, guard, family=subject.family, date=subject.date, quant="int8", gate=False)
    return checkpoint, guard


def in_turn(calls: dict[str, Call], text: str, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each call, called in turn."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call(text)
    for _ in range(repeats):
        for name, call in calls.items():
            time.sleep(0.2)  # another engine's threads spin for a while after a pass
            start = time.perf_counter()
            call(text)
            found[name].append((time.perf_counter() - start) * 1e3)
    return found


def row(name: str, content: int, found: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, and the median ratio of every call to the first."""
    first, *others = found
    times = {call: statistics.median(values) for call, values in found.items()}
    ratios = {
        f"{call} / {first}": statistics.median(b / a for a, b in zip(found[first], found[call], strict=True))
        for call in others
    }
    return {"subject": name, "content": content, **times, **ratios}


def shieldgemma(path: Path, lengths: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """Four policies in one pass, one by one, and one alone."""
    guard = Guard.load(path)
    asked = guard.manifest.modes["prompt"].asked
    calls: dict[str, Call] = {
        "four in one pass": lambda text: guard.check(text),
        "four passes": lambda text: [guard.check(text, policies=[name]) for name in asked],
        "one policy": lambda text: guard.check(text, policies=asked[:1]),
    }
    return [row(SHIELD.twin, n, in_turn(calls, text_of(path, n), repeats)) for n in lengths]


def wildguard(path: Path, checkpoint: Path, lengths: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """Three fields in one pass, the first alone in mode prompt, and generate of twenty tokens."""
    guard = Guard.load(path)
    generate = Generate(checkpoint, path, "response", 20)
    calls: dict[str, Call] = {
        "three fields": lambda text: guard.check(text[: len(text) // 2], text[len(text) // 2 :]),
        "mode prompt": lambda text: guard.check(text),
        "generate(20)": generate,
    }
    rows = [row(WILD.twin, n, in_turn(calls, text_of(path, n), repeats)) for n in lengths]
    generate.close()
    return rows


def llama_guard(path: Path, checkpoint: Path, lengths: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """Verdict and first category in one pass, and generate of what says as much."""
    guard = Guard.load(path)
    steps = guard.manifest.modes["prompt"].steps
    generate = Generate(checkpoint, path, "prompt", steps)
    calls: dict[str, Call] = {"one pass": lambda text: guard.check(text), f"generate({steps})": generate}
    rows = [row(LLAMA.twin, n, in_turn(calls, text_of(path, n), repeats)) for n in lengths]
    generate.close()
    return rows


class Generate:
    """transformers' greedy generate in a process of its own, on as many tokens as the guard's prompt has."""

    def __init__(self, checkpoint: Path, guard: Path, mode: Mode, steps: int) -> None:
        manifest = open_guard(guard, verify=False)
        self._tokenizer = ContentTokenizer.of(guard, manifest)
        self._static = describe(manifest, self._tokenizer)["modes"][mode]["step_by_step"]["tokens"]
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_generate, args=(checkpoint, steps, there), daemon=True)
        self._process.start()
        there.close()
        self._pipe.recv()

    def close(self) -> None:
        """End the process, so that its weights leave the memory to the next subject."""
        self._pipe.send(None)
        self._process.join()

    def __call__(self, text: str) -> None:
        self._pipe.send(str(self._static + len(self._tokenizer.ids(text))))
        self._pipe.recv()


def _generate(checkpoint: Path, steps: int, pipe: Connection) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(usable_cores())
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16).eval()

    def run(count: str) -> dict[str, float]:
        if not count.isdecimal():  # the warm-up
            return {}
        ids = torch.arange(1000, 1000 + int(count))[None]
        with torch.no_grad():
            model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, max_new_tokens=steps,
                min_new_tokens=steps,
            )  # fmt: skip
        return {}

    serve(run, pipe)


def main() -> None:
    """Measure, and print one JSON line per row."""
    parser = argparse.ArgumentParser(prog="python -m guardpass.bench.trees")
    parser.add_argument("--work", type=Path, required=True, help="where twins and guards go, and stay")
    parser.add_argument("--tokenizers", type=Path, required=True, help="holds a folder for each real tokenizer")
    parser.add_argument("--subjects", default="shieldgemma,wildguard,llama-guard")
    parser.add_argument("--lengths", default="32,128,512")
    parser.add_argument("--layers", type=int, help="cut the twins to so many layers")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    lengths = [int(length) for length in options.lengths.split(",")]
    print(json.dumps(machine() | {"layers": options.layers or "all", "quant": "int8", "repeats": options.repeats}))
    for name, subject in (("shieldgemma", SHIELD), ("wildguard", WILD), ("llama-guard", LLAMA)):
        if name not in options.subjects.split(","):
            continue
        checkpoint, guard = prepare(subject, options.work, options.tokenizers, options.layers)
        if subject is SHIELD:
            rows = shieldgemma(guard, lengths, options.repeats)
        else:
            rows = (wildguard if subject is WILD else llama_guard)(guard, checkpoint, lengths, options.repeats)
        for each in rows:
            rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in each.items()}
            print(json.dumps(rounded), flush=True)


if __name__ == "__main__":
    main()
