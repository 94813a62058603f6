"""`guardpass calibrate`, `compare`, `twin` and `demo`. The command `bench` is in `speed/commands.py`."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from guardpass.errors import InputError
from guardpass.format.codec import encode
from guardpass.format.manifest import Device
from guardpass.jsonl import dump

from .speed.commands import app as bench

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Plots = Annotated[Path | None, typer.Option(metavar="DIR", help="Draw PNG files into this folder.")]
Threads = Annotated[int | None, typer.Option(help="Number of engine threads.", show_default="the usable cores")]
On = Annotated[Device | None, typer.Option(help="Run on this device.", show_default="the one a guard was exported for")]
DemoEngine = Literal["onnx", "native", "auto"]
DemoQuant = Literal["fp32", "int8", "int4"]


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
            help='JSONL with lines {"text", "response"?, "unsafe": true|false, "category"?, "id"?}; for --field, '
            'lines have "labels": {FIELD: true|false} instead of "unsafe".',
        ),
    ] = None,
    at: Annotated[
        str,
        typer.Option(
            metavar="f1|precision=P|recall=R|fpr=F",
            help="Choose the threshold with the best F1, with at least this precision or recall, or with at most this "
            "false-positive rate.",
        ),
    ] = "f1",
    field: Annotated[str | None, typer.Option(help="Choose the threshold of this field alone, by its labels.")] = None,
    plots: Plots = None,
    bootstrap: Annotated[
        int, typer.Option(metavar="N", help="Number of resamples for the intervals; 0 gives none.")
    ] = 1000,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Choose and report, and leave guard.json as it is.")
    ] = False,
    reset: Annotated[
        bool, typer.Option("--reset", help="Remove the thresholds, so that the guard goes by argmax.")
    ] = False,
    threads: Threads = None,
    device: On = None,
    as_json: Json = False,
) -> None:
    """Choose a guard's thresholds on labelled texts, or remove them."""
    if (labelled is None) != reset:
        raise InputError("expected either LABELLED.jsonl or --reset")
    from . import calibrate as calibrated
    from . import reset_thresholds

    if labelled is None:
        reset_thresholds(guard, field)
        fields = "all fields" if field is None else field
        print(dump({"guard": str(guard), "reset": field}) if as_json else f"{guard}: {fields} by argmax again")
        return
    with _bar(labelled.name) as progress:
        report = calibrated(
            guard,
            labelled,
            at=at,
            field=field,
            resamples=bootstrap,
            plots=plots,
            dry_run=dry_run,
            threads=threads,
            device=device,
            progress=progress,
        )
    if as_json:
        print(dump(encode(report)))
        return
    from .calibration.tables import show_calibration

    show_calibration(report)


def compare(
    guards: Annotated[list[Path], typer.Argument(metavar="GUARD_A GUARD_B...", help="Two or more guard directories.")],
    texts: Annotated[Path, typer.Option(metavar="FILE", help='JSONL with lines {"text", "response"?, "id"?}.')],
    argmax: Annotated[bool, typer.Option("--argmax", help="Ignore the guards' thresholds and go by argmax.")] = False,
    plots: Plots = None,
    threads: Threads = None,
    device: On = None,
    as_json: Json = False,
) -> None:
    """Judge the same texts with several guards, and show where they differ."""
    from . import compare as compared

    with _bar(texts.name) as progress:
        report = compared(guards, texts, argmax=argmax, plots=plots, threads=threads, device=device, progress=progress)
    if as_json:
        print(dump(encode(report)))
        return
    from .calibration.tables import show_comparison

    show_comparison(report)


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def twin(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="The name of a published checkpoint, as `guardpass families` lists them."),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The checkpoint directory to write.")],
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Write the same layout and quirks in a few hundred kilobytes.")
    ] = False,
    layers: Annotated[
        int | None, typer.Option(min=1, help="Write this number of layers instead of the published one.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Take the vocabulary of DIR/tokenizer.json.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a checkpoint with a published shape and random weights."""
    from dataclasses import replace

    from . import twins

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
    engine: Annotated[DemoEngine, typer.Option(help="Run the demo guard with this engine.")] = "onnx",
    quant: Annotated[DemoQuant, typer.Option(help="Export the demo guard at this precision.")] = "int8",
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Measure accuracy on the held-out sets instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Export the demo guard and judge Korean and English sentences with it."""
    from dataclasses import asdict

    from .demo import fidelity, run

    if held_out:
        rows = fidelity.fidelity(quant, engine)
        print(json.dumps([asdict(row) for row in rows]) if as_json else "\n".join(map(str, rows)))
        return
    verdicts = run.judge(quant, engine)
    if as_json:
        print(json.dumps([verdict.to_json() for verdict in verdicts], ensure_ascii=False))
    else:
        run.show(f"{engine} {quant}", verdicts)
