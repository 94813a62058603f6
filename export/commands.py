"""`guardpass export`, `adopt` and `families`."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from guardpass.manifest import Device, Manifest

    from .families.schema import Family as Row
    from .guard_dir.progress import Progress as Told
    from .targets import Asked, Via


def register(app: typer.Typer) -> None:
    """Add export's commands. What they need is imported when one runs, so that `check` starts fast."""
    app.command()(export)
    app.command()(adopt)
    app.command()(families)


Family = Annotated[str | None, typer.Option(metavar="NAME|FILE", help="A row, or a TOML file.")]
Policies = Annotated[
    list[str] | None, typer.Option(metavar="NAME=TITLE: TEXT", help="One more policy to judge by (repeatable).")
]
Date = Annotated[
    str | None, typer.Option(metavar="YYYY-MM-DD", help="What today is to a chat template that prints it.")
]
Out = Annotated[Path, typer.Option(metavar="GUARD", help="The guard directory to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing GUARD.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A Hugging Face directory.")],
    out: Out,
    family: Family = None,
    policy: Policies = None,
    date: Date = None,
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            "--format",
            help="What runs the guard: onnx, native (guardpass-kernels), llamacpp (or gguf), or auto: native where "
            "that is installed and made for this CPU, else onnx.",
        ),
    ] = "onnx",
    quant: Annotated[
        str | None,
        typer.Option(
            help="onnx: fp32, int8 (default) or int4. native: int8 (default) or int4. "
            "llamacpp: f32, f16, bf16, q8_0 (default), q6_k, q5_k_m, q4_k_m, q4_0 or iq4_nl. "
            "onnx for cuda: bf16 (default), fp16 or fp32."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="What the guard is for: cpu, or cuda (engine onnx).")] = "cpu",
    no_gate: Annotated[
        bool, typer.Option("--no-gate", help="Do not try the quantized guard against the original weights.")
    ] = False,
    gate_texts: Annotated[
        Path | None, typer.Option(metavar="FILE", help='Try it on these lines {"text", "response"?}.')
    ] = None,
    max_flip_rate: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="More verdicts that flip fail the export (default: 0.05 for four bits, else 0.02)."
        ),
    ] = None,
    via: Annotated[str, typer.Option(help="own, or optimum for architectures outside our table.")] = "own",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Compile a checkpoint into a guard."""
    from . import export_guard

    with _bar(checkpoint.name) as progress:
        manifest = export_guard(
            checkpoint, out, family=_row(family), policies=policy or (), date=date, engine=cast("Asked", engine),
            quant=quant, device=cast("Device", device), via=cast("Via", via), gate=not no_gate,
            gate_texts=gate_texts, max_flip_rate=max_flip_rate, force=force, progress=progress,
        )  # fmt: skip
    _report(out, manifest, as_json)


def adopt(
    model: Annotated[Path, typer.Argument(metavar="MODEL.gguf", help="A guard that is a GGUF already.")],
    out: Out,
    family: Family = None,
    policy: Policies = None,
    date: Date = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make a guard of a GGUF: its own bytes, and a manifest from its own tokenizer and chat template."""
    from . import adopt_gguf

    with _bar(model.name) as progress:
        manifest = adopt_gguf(
            model, out, family=_row(family), policies=policy or (), date=date, force=force, progress=progress
        )
    _report(out, manifest, as_json)


def _row(family: str | None) -> "Row | None":
    from .families import find
    from .families.toml_file import read_family

    return None if family is None else read_family(Path(family)) if family.endswith(".toml") else find(family)


@contextmanager
def _bar(name: str) -> Iterator["Told"]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    # SIGTERM unwinds like Ctrl-C, so that a stopped export leaves no gigabytes behind.
    signal.signal(signal.SIGTERM, _stop)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _report(out: Path, manifest: "Manifest", as_json: bool) -> None:
    from guardpass.describe import gate_line

    size, engine, gate = sum(file.size for file in manifest.files.values()), manifest.engine, manifest.gate
    if as_json:
        found = {
            "guard": str(out), "family": manifest.family, "engine": engine.name, "quant": engine.quant,
            "device": engine.device, "bytes": size,
        }  # fmt: skip
        if gate is None:
            print(json.dumps(found | {"gate": None, "ungated": manifest.ungated}))
        else:
            shown = {"texts": gate.texts, "agreement": gate.agreement, "flips": len(gate.flips), "kl": gate.kl}
            print(json.dumps(found | {"gate": shown}))
        return
    on = "" if engine.device == "cpu" else f" on {engine.device}"
    print(f"{out}: {manifest.family}, engine {engine.name}{on}, {engine.quant}, {size / 1e6:.1f} MB")
    if gate:
        print(f"gate: {gate_line(manifest)}")


def _stop(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def families(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every answer and what it means.")] = False,
    as_json: Json = False,
) -> None:
    """List the families a checkpoint can belong to."""
    from guardpass.schema import encode

    from .families import FAMILIES

    if as_json:
        print(json.dumps({row.name: encode(row) for row in FAMILIES}, ensure_ascii=False))
        return
    for row in FAMILIES:
        print(
            f"{row.name}  modes: {', '.join(row.modes)}  checkpoints: {', '.join(row.checkpoints) or 'none of its own'}"
        )
        if not verbose:
            continue
        for question in row.questions:
            print(f"    field {question.field}")
            judging = any(answer.severity != "safe" for answer in question.answers)
            for answer in question.answers:
                severity = f"  {answer.severity}" if judging else ""
                print(f"        {answer.text!r}{severity}" + _meaning(answer.category, answer.openai))
        for policy in row.policies:
            asked = "asked by default" if policy.name in row.asked else "asked by name"
            print(f"    policy {policy.name}  {asked}" + _meaning(policy.category, policy.openai))
        for mode, prompt in row.modes.items():
            print(f"    answer in mode {mode}: {prompt.answer!r}")


def _meaning(category: str | None, openai: str | None) -> str:
    return (f"  {category}" if category else "") + (f"  (OpenAI: {openai})" if openai else "")
