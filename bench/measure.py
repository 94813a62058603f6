"""The README's numbers: `python -m guardpass.bench.measure NAME --work DIR [--tokenizer DIR] [--json]`.

On a twin of NAME: export time, peak memory and size per precision; load time and resident memory; and the time of
a whole check in int8 beside transformers' bf16 generate(max_new_tokens=1), both in their own process, called in
turn on the same texts, so that a ratio holds even where the machine's speed drifts.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from guardpass import Guard
from guardpass.engines.cpu import usable_cores

_KOREAN = "오늘 회의에서 나온 이야기를 정리해서 알려 주시겠어요? 그리고 내일 일정도 함께 확인해 주세요. "


def export_costs(checkpoint: Path, out: Path, *options: str) -> dict[str, float]:
    """Seconds, peak resident MB (of it and its largest child) and MB on disk of one export, in a process of its own."""
    command = [sys.executable, "-m", "guardpass", "export", str(checkpoint), "--out", str(out), "--no-gate", *options]
    start = time.perf_counter()
    process = subprocess.Popen([*command, "--force"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    size = sum(path.stat().st_size for path in out.iterdir())
    return {
        "export_s": time.perf_counter() - start,
        "export_peak_mb": usage.ru_maxrss / 1e3,
        "guard_mb": size / 1e6,
    }


def load_costs(guard: Path) -> dict[str, float]:
    """Seconds to load with and without hashing the weights, and resident MB after a check."""
    found: dict[str, float] = {}
    for verify in (True, False):
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_load, args=(guard, verify, there))
        process.start()
        there.close()  # so that a worker that dies ends the wait
        seconds, resident = here.recv()
        process.join()
        found |= {"load_s" if verify else "load_unverified_s": seconds, "resident_mb": resident}
    return found


def _load(path: Path, verify: bool, pipe: Connection) -> None:
    start = time.perf_counter()
    guard = Guard.load(path, verify=verify)
    seconds = time.perf_counter() - start
    guard.check(_KOREAN)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    pipe.send((seconds, pages * resource.getpagesize() / 1e6))


def _guard_worker(path: Path, pipe: Connection) -> None:
    guard = Guard.load(path)

    def check(text: str) -> dict[str, float]:
        verdict = guard.check(text)
        return {"ms": verdict.ms.total, "pass_ms": verdict.ms.run, "run": verdict.tokens.run}

    serve(check, pipe)


def _transformers_worker(path: Path, pipe: Connection) -> None:
    import torch
    from transformers import PreTrainedTokenizerFast

    from .reference import load_reference

    torch.set_num_threads(usable_cores())
    # Not AutoTokenizer, which reads the config that `load_reference` has to read in its own way.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    model = load_reference(path, torch.bfloat16)

    def check(text: str) -> dict[str, float]:
        start = time.perf_counter()
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        with torch.no_grad():
            model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False, pad_token_id=0)
        return {"ms": (time.perf_counter() - start) * 1e3, "run": ids.shape[1]}

    serve(check, pipe)


def serve(check: Callable[[str], dict[str, float]], pipe: Connection) -> None:
    check(_KOREAN)
    pipe.send("ready")
    while (text := pipe.recv()) is not None:
        pipe.send(check(text))


def latencies(guard: Path, checkpoint: Path, lengths: list[int], repeats: int) -> list[dict[str, float]]:
    """Medians of both, in turn, by content length in tokens."""
    context = multiprocessing.get_context("spawn")
    pipes = []
    for worker, path in ((_guard_worker, guard), (_transformers_worker, checkpoint)):
        here, there = context.Pipe()
        context.Process(target=worker, args=(path, there), daemon=True).start()
        there.close()
        here.recv()
        pipes.append(here)
    rows = []
    for length in lengths:
        text = text_of(guard, length)
        samples: list[list[dict[str, float]]] = [[], []]
        for _ in range(repeats):
            for pipe, found in zip(pipes, samples, strict=True):
                time.sleep(0.2)  # the other engine's threads spin for a while after a pass
                pipe.send(text)
                found.append(pipe.recv())
        ours, theirs = samples
        ratios = [b["ms"] / a["ms"] for a, b in zip(ours, theirs, strict=True)]
        rows.append(
            {
                "content": length,
                "run": ours[0]["run"],
                "pass_ms": statistics.median(row["pass_ms"] for row in ours),
                "check_ms": statistics.median(row["ms"] for row in ours),
                "transformers_tokens": theirs[0]["run"],
                "transformers_ms": statistics.median(row["ms"] for row in theirs),
                "ratio": statistics.median(ratios),
            }
        )
    for pipe in pipes:
        pipe.send(None)
    return rows


def text_of(guard: Path, tokens: int) -> str:
    """Korean text of so many tokens."""
    tokenizer = Tokenizer.from_file(str(guard / "tokenizer.json"))
    text = _KOREAN * (tokens // 8 + 1)
    end = tokenizer.encode(text, add_special_tokens=False).offsets[tokens - 1][1]
    return text[:end]


def machine() -> dict[str, Any]:
    """Where this was measured, and with what."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    packages = ("guardpass", "onnxruntime", "torch", "transformers")
    return {"cpu": cpu, "threads": usable_cores(), **{name: version(name) for name in packages}}


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m guardpass.bench.measure")
    parser.add_argument("name")
    parser.add_argument("--work", type=Path, required=True, help="where the twin and its guards go, and stay")
    parser.add_argument("--tokenizer", type=Path, help="directory of a tokenizer.json for the twin")
    parser.add_argument("--quants", default="fp32,int8,int4")
    parser.add_argument("--lengths", default="32,64,128,256")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    from .twin import find, write_twin

    checkpoint = options.work / options.name
    if not checkpoint.exists():
        write_twin(find(options.name), checkpoint, tokenizer=options.tokenizer)
    report: dict[str, Any] = {"machine": machine(), "guards": {}}
    for quant in options.quants.split(","):
        guard = options.work / f"{options.name}-{quant}"
        report["guards"][quant] = export_costs(checkpoint, guard, "--quant", quant) | load_costs(guard)
        print(quant, report["guards"][quant], file=sys.stderr)
    lengths = [int(length) for length in options.lengths.split(",") if length]
    if "int8" in report["guards"]:
        report["checks"] = latencies(options.work / f"{options.name}-int8", checkpoint, lengths, options.repeats)
    if options.json:
        print(json.dumps(report, indent=1))
        return
    print(" ".join(f"{key} {value}" for key, value in report["machine"].items()))
    for quant, costs in report["guards"].items():
        print(quant, " ".join(f"{key} {value:.1f}" for key, value in costs.items()))
    for row in report.get("checks", []):
        print(" ".join(f"{key} {value:.1f}" for key, value in row.items()))


if __name__ == "__main__":
    main()
