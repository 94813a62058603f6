"""`guardpass export` and `families`."""

import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from .exporter import Via


def register(app: typer.Typer) -> None:
    """Add export's commands. What they need is imported when one runs, so that `check` starts fast."""
    app.command()(export)
    app.command()(families)


def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A Hugging Face directory.")],
    out: Annotated[Path, typer.Option(metavar="GUARD", help="The guard directory to write.")],
    family: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="A row, or a TOML file."),
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option(metavar="NAME=TITLE: TEXT", help="One more policy to judge by (repeatable).")
    ] = None,
    date: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", help="What today is to a chat template that prints it.")
    ] = None,
    quant: Annotated[str, typer.Option(help="fp32, int8 or int4.")] = "int8",
    via: Annotated[str, typer.Option(help="own, or optimum for architectures outside our table.")] = "own",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing GUARD.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compile a checkpoint into a guard."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from . import export_guard
    from .families import find
    from .family_file import read_family

    row = None if family is None else read_family(Path(family)) if family.endswith(".toml") else find(family)
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
    )
    # SIGTERM unwinds like Ctrl-C, so that a stopped export leaves no gigabytes behind.
    signal.signal(signal.SIGTERM, _stop)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(f"{checkpoint.name} {quant}", total=None)
        manifest = export_guard(
            checkpoint, out, family=row, policies=policy or (), date=date, quant=quant, via=cast("Via", via),
            force=force, progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    size = sum(file.size for file in manifest.files.values())
    if as_json:
        print(json.dumps({"guard": str(out), "family": manifest.family, "quant": quant, "bytes": size}))
    else:
        print(f"{out}: {manifest.family}, {quant}, {size / 1e6:.1f} MB")


def _stop(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def families(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every answer and what it means.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
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
