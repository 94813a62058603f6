"""What each way to quantize costs and keeps, on real weights:

    python -m guardpass.bench.quantization CHECKPOINT [--texts N] [--gguf q8_0,...] [--only NAME ...] [--twin DIR]

CHECKPOINT has real weights, such as bench/quantization/smollm2.py makes. Each variant is compared with fp32 on Korean
and English texts in policy prompts of two kinds: KL of the full next-token distribution, agreement on Yes or No, the
widest flip, size, and the time of a pass of 128 tokens beside plain int8 in turn. Engine native is measured where
guardpass-kernels is installed. The demo guard on its held-out set follows. --twin times passes on that checkpoint
instead (a shape twin from `guardpass twin`). Needs guardpass[cpu,export,gguf].
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np

from guardpass.engines.hardware import usable_cores
from guardpass.export import export_guard, read_family
from guardpass.export.checkpoint.config import read_architecture
from guardpass.export.checkpoint.files import Checkpoint
from guardpass.export.decoder.recipe import Recipe
from guardpass.export.to_native import linear as native_quantize
from guardpass.export.to_onnx import linear as quantize
from guardpass.export.to_onnx.graph import Graph
from guardpass.format.manifest import Quant

from ..demo.fidelity import fidelity
from ..speed.measure.environment import here
from ..speed.report.markdown import machine
from .distribution import Kind, Logits, Run, Subject, gguf_run, moved, native_run, onnx_run
from .variants import variants

_FAMILY = Path(__file__).parent / "smollm2-policies.toml"
_TOKENS = 128
_INT8 = "**int8** (rotations, balanced, per-token for MLPs)"
_TIMED = ("int8 plain", "rotations, balanced", _INT8, "int8, per-token scales everywhere")
_NATIVE = {"**int8**, engine native": "int8", "**int4**, engine native": "int4"}
_DEMO = ("int8 plain", _INT8, "int4 plain", "**int4** (rotations, balanced, GPTQ)")


def in_turn(runs: Sequence[Run], prompts: Sequence[Sequence[int]], repeats: int = 15) -> list[float]:
    """Median ms of each, called in turns of an order drawn anew, on prompts that differ: llama.cpp keeps what it saw
    last, and whoever always comes second meets another clock than the first."""
    samples: list[list[float]] = [[] for _ in runs]
    order = random.Random(0)
    for turn in range(repeats + 1):
        for index in order.sample(range(len(runs)), len(runs)):
            time.sleep(0.05)  # the other engine's threads spin for a while after a pass
            start = time.perf_counter()
            runs[index](prompts[turn % len(prompts)])
            samples[index].append((time.perf_counter() - start) * 1e3)
    return [statistics.median(times[1:]) for times in samples]


def _timed(kind: Kind, tokens: int = _TOKENS) -> list[list[int]]:
    """Two prompts that begin alike, of which so many tokens are run."""
    content = [max(kind.prompts, key=len)[kind.baked :] * 100, min(kind.prompts, key=len)[kind.baked :] * 100]
    return [kind.prompts[0][: kind.baked] + tail[:tokens] for tail in content]


def compare(subject: Subject, ggufs: Sequence[str], only: Sequence[str]) -> None:
    """The first table."""
    recipes = {name: recipe for name, recipe in variants(subject.shape.layers).items() if not only or name in only}
    columns = "quantization | KL mean | KL max | agree, % | widest flip | margin off, mean | MB | ms | ms / plain"
    print(f"| {columns} |\n|{'---|' * 9}", flush=True)
    source = subject.checkpoint, subject.shape
    with onnx_run(*source, subject.kinds[0], variants(1)["int8 plain"]) as (plain, _):
        reference, size, ms = _asked(subject, partial(onnx_run, *source, recipe=quantize.RECIPES["fp32"]), plain)
        share = np.mean(reference[:, subject.answers[0]] > reference[:, subject.answers[1]])
        print(f"fp32 says Yes to {share:.1%} of {len(reference)} prompts", file=sys.stderr)
        _row("fp32", subject, reference, reference, size, ms)
        for name, recipe in recipes.items():
            logits, size, ms = _asked(subject, partial(onnx_run, *source, recipe=recipe), plain)
            _row(name, subject, logits, reference, size, ms)
        if not only:
            logits, size, _ = _asked(subject, partial(onnx_run, *source, recipe=quantize.RECIPES["int8"], baked=0))
            _row("**int8**, nothing baked", subject, logits, reference, size, None)
        for name, quant in _NATIVE.items():
            if find_spec("guardpass_kernels") and (not only or name in only):
                opened = partial(native_run, *source, recipe=native_quantize.RECIPES[quant])
                logits, size, ms = _asked(subject, opened, plain)
                _row(name, subject, logits, reference, size, ms)
        for quant in ggufs:
            with tempfile.TemporaryDirectory() as folder:
                guard = Path(folder) / "guard"
                checkpoint = subject.checkpoint.directory
                family, stored = read_family(_FAMILY), cast(Quant, quant)
                export_guard(checkpoint, guard, family=family, engine="llamacpp", quant=stored, gate=False)
                size = (guard / "model.gguf").stat().st_size
                with gguf_run(guard / "model.gguf", usable_cores()) as run:
                    logits = np.stack([run(prompt) for kind in subject.kinds for prompt in kind.prompts])
                    ms = in_turn([plain, run], _timed(subject.kinds[0]))
            _row(f"GGUF {quant}", subject, logits, reference, size, ms)


def _asked(
    subject: Subject, opened: Callable[[Kind], AbstractContextManager[tuple[Run, int]]], plain: Run | None = None
) -> tuple[Logits, int, list[float] | None]:
    """Logits of all prompts, bytes without the head of the whole vocabulary, and times beside plain int8."""
    logits, sizes, times = [], [], []
    for kind in subject.kinds:
        with opened(kind) as (run, written):
            logits += [run(prompt) for prompt in kind.prompts]
            sizes.append(written - 4 * subject.shape.vocab * subject.shape.hidden)
            times.append(in_turn([plain, run], _timed(kind)) if plain and kind is subject.kinds[0] else None)
    return np.stack(logits), sizes[0], times[0]


def _row(name: str, subject: Subject, logits: Logits, reference: Logits, size: int, ms: list[float] | None) -> None:
    seen = moved(logits, reference, subject.answers)
    times = f"{ms[1]:.1f} | {ms[1] / ms[0]:.2f}" if ms else "|"
    print(
        f"| {name} | {seen.kl:.4f} | {seen.kl_worst:.3f} | {100 * seen.agreement:.2f} | {seen.worst_flip:.3f} "
        f"| {seen.margin:.3f} | {size / 1e6:.0f} | {times} |",
        flush=True,
    )


def compare_demo() -> None:
    """The second table."""
    print("| quantization | set | same label as fp32, % | largest margin change |\n|---|---|---|---|", flush=True)
    recipes = variants(1)
    for name in _DEMO:
        quant = recipes[name].name
        with patched(quant, recipes[name]):
            for row in fidelity(quant):
                print(f"| {name} | {row.set}, {row.count} | {100 * row.same:.2f} | {row.margin_change:.2f} |")


@contextmanager
def patched(quant: str, recipe: Recipe[Graph]) -> Iterator[None]:
    """Let export write `recipe` as `quant` for a while."""
    before, quantize.RECIPES[quant] = quantize.RECIPES[quant], recipe
    try:
        yield
    finally:
        quantize.RECIPES[quant] = before


def time_twin(path: Path) -> None:
    """The third: pass times alone, of all variants in turn."""
    shape = read_architecture(Checkpoint(path))
    rng = np.random.default_rng(0)
    prefix = rng.integers(0, shape.vocab, 16).tolist()
    kinds = [Kind([prefix + rng.integers(0, shape.vocab, 512).tolist() for _ in range(2)], [], 16)]
    print(f"| pass, ms: tokens | {' | '.join(_TIMED)} |\n|---|{'---|' * len(_TIMED)}", flush=True)
    with ExitStack() as stack:
        graphs = [onnx_run(Checkpoint(path), shape, kinds[0], variants(1)[name], rows=range(8)) for name in _TIMED]
        runs = [stack.enter_context(graph)[0] for graph in graphs]
        for tokens in (16, 128, 512):
            times = in_turn(runs, _timed(kinds[0], tokens), 25)
            shown = (f"{ms:.0f} ({ms / times[0]:.2f})" for ms in times)
            print(f"| {tokens} | {' | '.join(shown)} |", flush=True)


def main() -> None:
    """Print the tables in markdown."""
    parser = argparse.ArgumentParser(prog="python -m guardpass.bench.quantization")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--texts", type=int, help="number of built-in texts (default: all of 5 to 400 tokens)")
    parser.add_argument(
        "--gguf", default="q8_0,q6_k,q4_k_m,q4_0", help="quantizations of llama.cpp, comma-separated; empty for none"
    )
    parser.add_argument("--only", action="append", default=[], help="measure this variant alone (repeatable)")
    parser.add_argument("--twin", type=Path, help="time passes on this checkpoint, and do nothing else")
    options = parser.parse_args()
    where = here("guardpass", "guardpass-kernels", "onnxruntime", "llama-cpp-python")
    print(f"{machine(where)}; {where.versions}")
    if options.twin:
        time_twin(options.twin)
        return
    subject = Subject(options.checkpoint, options.texts)
    print(f"{subject.texts} texts, {len(subject.kinds)} prompts, {_TOKENS} tokens timed\n")
    compare(subject, [quant for quant in options.gguf.split(",") if quant], options.only)
    print()
    compare_demo()


if __name__ == "__main__":
    main()
