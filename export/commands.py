"""`guardpass export`, `adopt` and `families`."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guardpass.format.manifest import Device

from .choices import EngineChoice, QuantChoice, Via

if TYPE_CHECKING:
    from guardpass.format.manifest import Manifest

    from .families.schema import Family as Row
    from .guard_dir.progress import Progress as ProgressCallback


def register(app: typer.Typer) -> None:
    """Add export's commands. What they need is imported when one runs, so that `check` starts fast."""
    app.command()(export)
    app.command()(adopt)
    app.command()(families)


Name = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The guard's name in logs, metrics and servers [default: the name of GUARD's directory].",
        show_default=False,
    ),
]
Family = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="The checkpoint's family: a name that `guardpass families` lists, or a TOML file [default: detected].",
        show_default=False,
    ),
]
Policies = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=TITLE: TEXT", help="Add a policy to judge by. Repeatable.", show_default=False),
]
Date = Annotated[
    str | None,
    typer.Option(metavar="YYYY-MM-DD", help="Give this date to a chat template that prints today's."),
]
Out = Annotated[Path, typer.Option(metavar="GUARD", help="Write the guard into this directory.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing GUARD.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def export(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="The Hugging Face directory of the checkpoint.")
    ],
    out: Out,
    name: Name = None,
    family: Family = None,
    policy: Policies = None,
    date: Date = None,
    engine: Annotated[
        EngineChoice,
        typer.Option(
            "--engine",
            "--format",
            help="Export for this engine. native needs guardpass-kernels. gguf is another name of llamacpp. auto is "
            "native where its kernels are installed and made for this CPU, else onnx.",
        ),
    ] = "onnx",
    quant: Annotated[
        QuantChoice | None,
        typer.Option(
            help="Store the weights at this precision. onnx has fp32, int8 (default) and int4. native has int8 "
            "(default) and int4. llamacpp has f32, f16, bf16, q8_0 (default), q6_k, q5_k_m, q4_k_m, q4_0 and iq4_nl. "
            "onnx for CUDA has bf16 (default), fp16 and fp32.",
        ),
    ] = None,
    device: Annotated[
        Device, typer.Option(help="Export for this device. Only engine onnx has exports for cuda.")
    ] = "cpu",
    no_gate: Annotated[
        bool, typer.Option("--no-gate", help="Do not compare the quantized guard with the original weights.")
    ] = False,
    gate_texts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Compare on the texts of this JSONL file, lines {"text", "response"?} [default: built-in texts].',
            show_default=False,
        ),
    ] = None,
    max_flip_rate: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Fail where quantization flips more than this share of verdicts [default: 0.05 at four bits, else "
            "0.02].",
            show_default=False,
        ),
    ] = None,
    via: Annotated[
        Via,
        typer.Option(
            help="Export by guardpass's own code, or by optimum-onnx, which knows more architectures and writes fp32 "
            "only."
        ),
    ] = "own",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Compile a checkpoint into a guard."""
    from . import export_guard

    with _bar(checkpoint.name) as progress:
        manifest = export_guard(
            checkpoint,
            out,
            name=name,
            family=_row(family),
            policies=policy or (),
            date=date,
            engine=engine,
            quant=quant,
            device=device,
            via=via,
            gate=not no_gate,
            gate_texts=gate_texts,
            max_flip_rate=max_flip_rate,
            force=force,
            progress=progress,
        )
    _report(out, manifest, as_json)


def adopt(
    model: Annotated[Path, typer.Argument(metavar="MODEL.gguf", help="A guard model that is a GGUF file already.")],
    out: Out,
    name: Name = None,
    family: Family = None,
    policy: Policies = None,
    date: Date = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make a guard of a GGUF file: its bytes as they are, and a manifest from its tokenizer and chat template."""
    from . import adopt_gguf

    with _bar(model.name) as progress:
        manifest = adopt_gguf(
            model,
            out,
            name=name,
            family=_row(family),
            policies=policy or (),
            date=date,
            force=force,
            progress=progress,
        )
    _report(out, manifest, as_json)


def _row(family: str | None) -> "Row | None":
    from .families import find
    from .families.toml_file import read_family

    return None if family is None else read_family(Path(family)) if family.endswith(".toml") else find(family)


@contextmanager
def _bar(name: str) -> Iterator["ProgressCallback"]:
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
        report = {
            "guard": str(out),
            "family": manifest.family,
            "engine": engine.name,
            "quant": engine.quant,
            "device": engine.device,
            "bytes": size,
            "notes": list(manifest.source.notes),
        }
        if gate is None:
            print(json.dumps(report | {"gate": None, "ungated": manifest.ungated}))
        else:
            shown = {"texts": gate.texts, "agreement": gate.agreement, "flips": len(gate.flips), "kl": gate.kl}
            print(json.dumps(report | {"gate": shown}))
        return
    on = "" if engine.device == "cpu" else f" on {engine.device}"
    print(f"{out}: {manifest.family}, engine {engine.name}{on}, {engine.quant}, {size / 1e6:.1f} MB")
    if gate:
        print(f"gate: {gate_line(manifest)}")
    print(*(f"note: {note}\n" for note in manifest.source.notes), sep="", end="")


def _stop(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def families(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every answer and its meaning.")] = False,
    as_json: Json = False,
) -> None:
    """List the families a checkpoint can belong to."""
    from guardpass.format.codec import encode

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
            when = "asked by default" if policy.name in row.asked else "asked by name"
            print(f"    policy {policy.name}  {when}" + _meaning(policy.category, policy.openai))
        for mode, prompt in row.modes.items():
            print(f"    answer in mode {mode}: {prompt.answer!r}")


def _meaning(category: str | None, openai: str | None) -> str:
    return (f"  {category}" if category else "") + (f"  (OpenAI: {openai})" if openai else "")
