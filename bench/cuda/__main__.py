"""Guards on a GPU beside what else there is: `python -m guardpass.bench.cuda --work DIR --out cuda.json`.

It measures the machine's peaks of copying and multiplying first, then twins exported for the device, at several
lengths and batches. Each pass stands beside its floor: the larger of reading all weights once and of the
multiplications, at the measured peaks. A twin may be cut to fewer layers; its times are then also scaled to all layers,
and marked as such. All contenders run the same number of tokens; the baked prefix, which others would run too, is left
out. `--device cpu` is a dry run of the same code.
"""

import argparse
import gc
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from guardpass.errors import GuardpassError
from guardpass.export import export_guard
from guardpass.format.integrity import open_guard
from guardpass.format.manifest import Device, Manifest, Quant
from guardpass.plan import Pass

from ..speed.measure.environment import here
from ..twins import find, shapes, tiny, write_twin
from .contenders import CONTENDERS, Contender, Machine, Run, Subject, machine, timed

TWINS = (
    "kanana-safeguard-8b",
    "kanana-safeguard-prompt-2.1b",
    "wildguard-ko-3b",
    "shieldgemma-2b",
    "shieldgemma-9b",
)
_PACKAGES = ("guardpass", "onnxruntime", "onnxruntime-gpu", "torch", "transformers", "llama-cpp-python")


@dataclass(frozen=True)
class Cell:
    """One contender at one shape. Milliseconds are of a whole batch. share: floor over time; 1 is at the floor."""

    twin: str
    layers: int
    all_layers: int
    contender: str
    quant: str
    tokens: int
    batch: int
    runs: int
    median_ms: float
    p95_ms: float
    scaled_median_ms: float | None  # to all layers, where some were cut; estimated, not measured
    requests_per_s: float
    floor_ms: float | None
    floor_is: str | None  # "reading" or "multiplying"
    share: float | None
    outside_ms: float | None  # of the median: padding, copies and threads, where the engine's own time is known


def passes(manifest: Manifest, tokens: int, batch: int) -> list[Pass]:
    """Random tokens after a mode's prefix, the last of them a slot: tokens of a tree cost as much as text."""
    mode = next(iter(manifest.modes.values()))
    chain = mode.prefix[: len(mode.prefix) - mode.lead]
    rng = np.random.default_rng(tokens)
    return [
        Pass(
            tokens=rng.integers(0, manifest.vocab, (1, tokens)),
            positions=np.arange(len(chain), len(chain) + tokens)[None],
            slots=np.array([[tokens - 1]]),
            prefix_columns=chain,
            prefix_len=len(manifest.prefix.tokens),
            tree_mask=np.ones((1, 1), np.bool_),
        )
        for _ in range(batch)
    ]


def floor(config: dict[str, Any], width: int, rates: Machine, tokens: int, slots: int) -> tuple[float, str] | None:
    """The least milliseconds of a batch of `tokens` tokens and `slots` slots, and what bounds it.

    width: bytes of a weight. The last layer needs keys and values of all tokens, the rest of the slots alone.
    """
    if rates.copy_gb_s is None or rates.matmul_tflops is None:
        return None
    sizes = {name: int(np.prod(shape)) for name, shape in shapes(config).items() if ".layers." in name and shape[1:]}
    last, keys_values = f"model.layers.{config['num_hidden_layers'] - 1}.", ("k_proj.weight", "v_proj.weight")
    few = sum(size for name, size in sizes.items() if name.startswith(last) and not name.endswith(keys_values))
    whole = sum(sizes.values())
    reading = whole * width / rates.copy_gb_s / 1e6
    multiplying = 2 * ((whole - few) * tokens + few * slots) / rates.matmul_tflops / 1e9
    return max((reading, "reading"), (multiplying, "multiplying"))


def measure(
    subject: Subject, rates: Machine, lengths: Sequence[int], batches: Sequence[int], seconds: float
) -> Iterator[Cell]:
    """Every contender that this machine has, at every shape. Missing ones are named on stderr."""
    for contender in CONTENDERS:
        try:
            prepare = contender.open(subject)
        except (GuardpassError, ImportError) as error:
            print(f"{contender.name}: left out: {error}", file=sys.stderr)
            continue
        for tokens in lengths:
            for batch in (batch for batch in batches if batch <= contender.most):
                requests = passes(subject.manifest, tokens, batch)
                yield _cell(subject, rates, contender, requests, prepare(requests), seconds)
        del prepare
        gc.collect()


def _cell(
    subject: Subject, rates: Machine, contender: Contender, requests: list[Pass], run: Run, seconds: float
) -> Cell:
    config, batch, tokens = subject.twin.config, len(requests), requests[0].tokens.size
    layers, ms = config["num_hidden_layers"], timed(run.whole, seconds)
    median, inside = float(np.median(ms)), run.inside
    least, of = floor(config, subject.width, rates, tokens * batch, batch * requests[0].slots.size) or (None, None)
    return Cell(
        twin=subject.twin.name,
        layers=layers,
        all_layers=subject.all_layers,
        contender=contender.name,
        quant=subject.quant,
        tokens=tokens,
        batch=batch,
        runs=len(ms),
        median_ms=median,
        p95_ms=float(np.percentile(ms, 95)),
        scaled_median_ms=median * subject.all_layers / layers if layers != subject.all_layers else None,
        requests_per_s=batch / median * 1e3,
        floor_ms=least,
        floor_is=of,
        share=least / median if least else None,
        outside_ms=median - float(np.median([inside() for _ in range(len(ms))])) if inside else None,
    )


def subject_of(name: str, device: Device, layers: int | None, small: bool, work: Path) -> Subject:
    """A twin, written and exported below `work`, where an earlier run has not left it."""
    row = tiny(find(name)) if small else find(name)
    every = row.config["num_hidden_layers"]
    row = replace(row, config=row.config | {"num_hidden_layers": layers or every})
    quant: Quant = "bf16" if device == "cuda" else "fp32"
    base = work / f"{name}-{row.config['num_hidden_layers']}{'-tiny' if small else ''}"
    checkpoint, onnx, gguf = base / name, base / f"cuda-{quant}", base / "gguf"
    base.mkdir(parents=True, exist_ok=True)
    if not checkpoint.exists():
        write_twin(row, checkpoint)
    if not onnx.exists():
        export_guard(checkpoint, onnx, device="cuda", quant=quant, family=row.family, date=row.date, gate=False)
    manifest = open_guard(onnx, verify=False)
    return Subject(row, every, quant, 2 if device == "cuda" else 4, device, manifest, checkpoint, onnx, gguf)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="keep twins and guards in this folder")
    parser.add_argument("--out", type=Path, required=True, help="write this JSON file")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--twin", action="append", help="NAME or NAME=LAYERS (repeatable; default: all five, whole)")
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=1.0, help="measure each cell for this long, after warming up")
    parser.add_argument("--tiny", action="store_true", help="measure tiny twins of a few hundred kilobytes")
    options = parser.parse_args(arguments)
    rates = machine(options.device)
    report: dict[str, Any] = {"machine": asdict(rates), "environment": asdict(here(*_PACKAGES)), "cells": []}
    for choice in options.twin or TWINS:
        name, _, layers = choice.partition("=")
        subject = subject_of(name, options.device, int(layers) if layers else None, options.tiny, options.work)
        for cell in measure(subject, rates, options.tokens, options.batch, options.seconds):
            report["cells"].append(asdict(cell))
            print(json.dumps(asdict(cell)), flush=True)
            options.out.write_text(json.dumps(report, indent=1))  # what was measured survives what fails later


if __name__ == "__main__":
    main()
