"""`guardpass calibrate`, `compare`, `twin` and `demo`; `bench` itself is in `speed/commands.py`."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from guardpass.errors import InputError
from guardpass.jsonl import dump
from guardpass.manifest import Device
from guardpass.schema import encode

from .speed.commands import app as bench

if TYPE_CHECKING:
    from guardpass.export.choices import EngineChoice
    from guardpass.manifest import Quant

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Plots = Annotated[Path | None, typer.Option(metavar="DIR", help="Draw PNG files into this folder.")]
Threads = Annotated[int | None, typer.Option(help="Engine threads (default: the cores at hand).")]
On = Annotated[str | None, typer.Option(help="cpu or cuda; by default what a guard was exported for.")]


def register(app: typer.Typer) -> None:
    """Add bench's commands; what they need is imported when one runs."""
    app.command()(calibrate)
    app.command()(compare)
    app.command()(twin)
    app.command()(demo)
    app.add_typer(bench, name="bench")


def calibrate(
    guard: Annotated[Path, typer.Argument(metavar="GUARD", help="A guard directory.")],
    labelled: Annotated[
        Path | None,
        typer.Argument(
            metavar="LABELLED.jsonl",
            help='Lines {"text", "response"?, "unsafe": true|false, "category"?, "id"?}; for --field, '
            '"labels": {FIELD: true|false} instead of "unsafe".',
        ),
    ] = None,
    at: Annotated[
        str, typer.Option(help="f1 (the best), precision=0.98, recall=0.95 or fpr=0.01 (false-positive rate).")
    ] = "f1",
    field: Annotated[str | None, typer.Option(help="Only for this field, by the labels of it.")] = None,
    plots: Plots = None,
    bootstrap: Annotated[int, typer.Option(metavar="N", help="Resamples for the intervals; 0 gives none.")] = 1000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Leave guard.json as it is.")] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Take the thresholds away: argmax again.")] = False,
    threads: Threads = None,
    device: On = None,
    as_json: Json = False,
) -> None:
    """Choose a guard's thresholds on labelled texts, or take them away."""
    if (labelled is None) != reset:
        raise InputError("expected either LABELLED.jsonl or --reset")
    from . import calibrate as calibrated
    from . import reset_thresholds

    if labelled is None:
        reset_thresholds(guard, field)
        what = "all fields" if field is None else field
        print(dump({"guard": str(guard), "reset": field}) if as_json else f"{guard}: {what} by argmax again")
        return
    with _bar(labelled.name) as progress:
        report = calibrated(
            guard, labelled, at=at, field=field, resamples=bootstrap, plots=plots, dry_run=dry_run, threads=threads,
            device=cast(Device | None, device), progress=progress,
        )  # fmt: skip
    if as_json:
        print(dump(encode(report)))
        return
    from .tables import show_calibration

    show_calibration(report)


def compare(
    guards: Annotated[list[Path], typer.Argument(metavar="GUARD_A GUARD_B...", help="Two or more guard directories.")],
    texts: Annotated[Path, typer.Option(metavar="FILE", help='Lines {"text", "response"?, "id"?}.')],
    argmax: Annotated[bool, typer.Option("--argmax", help="Leave the guards' thresholds aside.")] = False,
    plots: Plots = None,
    threads: Threads = None,
    device: On = None,
    as_json: Json = False,
) -> None:
    """Judge the same texts by several guards, and show where they differ."""
    from . import compare as compared

    with _bar(texts.name) as progress:
        report = compared(
            guards, texts, argmax=argmax, plots=plots, threads=threads, device=cast(Device | None, device),
            progress=progress,
        )  # fmt: skip
    if as_json:
        print(dump(encode(report)))
        return
    from .tables import show_comparison

    show_comparison(report)


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def twin(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A published checkpoint, see `guardpass families`.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The checkpoint directory to write.")],
    tiny: Annotated[bool, typer.Option("--tiny", help="The same layout and quirks, a few hundred kilobytes.")] = False,
    layers: Annotated[int | None, typer.Option(min=1, help="Fewer layers than published.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Take the vocabulary of this tokenizer.json.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a checkpoint with a published shape and random weights."""
    from dataclasses import replace

    from . import twin as twins

    row = twins.find(name)
    row = twins.tiny(row) if tiny else row
    if layers is not None:
        row = replace(row, config=row.config | {"num_hidden_layers": layers})
    twins.write_twin(row, out, tokenizer=tokenizer)
    layers = row.config["num_hidden_layers"]
    if as_json:
        print(json.dumps({"checkpoint": str(out), "name": name, "layers": layers}))
    else:
        print(f"{out}: {name} with random weights, {layers} layers")


def demo(
    engine: Annotated[str, typer.Option(help="onnx, native or auto.")] = "onnx",
    quant: Annotated[str, typer.Option(help="fp32, int8 or int4.")] = "int8",
    held_out: Annotated[bool, typer.Option("--held-out", help="Accuracy on the held-out sets instead.")] = False,
    as_json: Json = False,
) -> None:
    """Export the demo guard and judge Korean and English sentences with it."""
    from dataclasses import asdict

    from .demo import fidelity, run

    if held_out:
        found = fidelity.fidelity(cast("Quant", quant), cast("EngineChoice", engine))
        print(json.dumps([asdict(each) for each in found]) if as_json else "\n".join(map(str, found)))
        return
    verdicts = run.judge(cast("Quant", quant), cast("EngineChoice", engine))
    if as_json:
        print(json.dumps([verdict.to_json() for verdict in verdicts], ensure_ascii=False))
    else:
        run.show(f"{engine} {quant}", verdicts)
