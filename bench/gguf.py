"""GGUF on a twin: `python -m guardpass.bench.gguf NAME --work DIR [--tokenizer DIR] [--quants ...] [--json]`.

For each quant: export time and peak memory, size, load time, resident memory; and the time of a check on the llamacpp
engine beside llama-cpp-python's own `create_chat_completion(max_tokens=1)` on the same file, in processes of their own,
called in turn on the same texts. The ONNX int8 guard stands beside them. Needs guardpass[cpu,export,gguf].
"""

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from guardpass import Guard
from guardpass.engines.cpu import usable_cores

from .measure import export_costs, load_costs, machine, serve, text_of


def _guard(path: Path, pipe: Connection) -> None:
    guard = Guard.load(path)

    def check(text: str) -> dict[str, float]:
        verdict = guard.check(text)
        return {"ms": verdict.ms.total, "run": verdict.tokens.run}

    serve(check, pipe)


def _stock(path: Path, pipe: Connection) -> None:
    """llama-cpp-python as its users drive it, at its best setting (flash attention, 512 tokens at a time)."""
    import llama_cpp

    cores = usable_cores()
    llama = llama_cpp.Llama(
        str(path / "model.gguf"), n_ctx=2048, n_batch=512, n_threads=cores, n_threads_batch=cores, flash_attn=True,
        verbose=False,
    )  # fmt: skip

    def check(text: str) -> dict[str, float]:
        start = time.perf_counter()
        answer = llama.create_chat_completion([{"role": "user", "content": text}], max_tokens=1, temperature=0)
        return {"ms": (time.perf_counter() - start) * 1e3, "run": answer["usage"]["prompt_tokens"]}

    serve(check, pipe)


Worker = Callable[[Path, Connection], None]


def in_turn(workers: list[tuple[Worker, Path]], texts: list[str], repeats: int) -> list[Any]:
    """For each text the samples of each worker, called one after the other."""
    context = multiprocessing.get_context("spawn")
    pipes: list[Any] = []
    for worker, path in workers:
        here, there = context.Pipe()
        context.Process(target=worker, args=(path, there), daemon=True).start()
        there.close()
        here.recv()
        pipes.append(here)
    found = []
    for text in texts:
        samples: list[list[dict[str, float]]] = [[] for _ in workers]
        for turn in range(repeats):
            for pipe, kept in zip(pipes, samples, strict=True):
                time.sleep(0.2)  # the other engine's threads spin for a while after a pass
                # A text that llama-cpp-python has just seen would come from its cache, so every turn has its own.
                pipe.send(f"{turn}{text}")
                kept.append(pipe.recv())
        found.append(samples)
    for pipe in pipes:
        pipe.send(None)
    return found


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m guardpass.bench.gguf")
    parser.add_argument("name")
    parser.add_argument("--work", type=Path, required=True, help="where the twin and its guards go, and stay")
    parser.add_argument("--tokenizer", type=Path, help="directory of a tokenizer.json for the twin")
    parser.add_argument("--quants", default="q8_0,q6_k,q5_k_m,q4_k_m,q4_0,iq4_nl,f16")
    parser.add_argument("--lengths", default="16,64,128,256")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    from .twin import find, write_twin

    checkpoint = options.work / options.name
    if not checkpoint.exists():
        write_twin(find(options.name), checkpoint, tokenizer=options.tokenizer)
    onnx = options.work / f"{options.name}-int8"
    if not onnx.exists():
        subprocess.run(
            [sys.executable, "-m", "guardpass", "export", checkpoint, "--out", onnx, "--no-gate"], check=True
        )
    texts = [text_of(onnx, int(length)) for length in options.lengths.split(",")]
    report: dict[str, Any] = {"machine": machine() | {"llama-cpp-python": version("llama-cpp-python")}}
    for quant in options.quants.split(","):
        guard = options.work / f"{options.name}-{quant}"
        costs = export_costs(checkpoint, guard, "--engine", "llamacpp", "--quant", quant) | load_costs(guard)
        rows = []
        workers: list[tuple[Worker, Path]] = [(_guard, guard), (_stock, guard), (_guard, onnx)]
        samples = in_turn(workers, texts, options.repeats)
        for length, (ours, theirs, onnxs) in zip(options.lengths.split(","), samples, strict=True):
            ratio = statistics.median(b["ms"] / a["ms"] for a, b in zip(ours, theirs, strict=True))
            row = {"content": int(length), "run": ours[0]["run"], "stock_run": theirs[0]["run"]}
            named = {"llamacpp_ms": ours, "stock_ms": theirs, "onnx_int8_ms": onnxs}
            row |= {name: statistics.median(each["ms"] for each in found) for name, found in named.items()}
            rows.append(row | {"stock/llamacpp": ratio})
        report[quant] = {"costs": costs, "checks": rows}
        print(quant, json.dumps(report[quant]), file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps(report, indent=1))
        return
    print(" ".join(f"{key} {value}" for key, value in report.pop("machine").items()))
    for quant, found in report.items():
        print(quant, " ".join(f"{key} {value:.1f}" for key, value in found["costs"].items()))
        for row in found["checks"]:
            print(" ", " ".join(f"{key} {value:.2f}" for key, value in row.items()))


if __name__ == "__main__":
    main()
