"""`guardpass export` and `families`."""

import json
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add export's commands. What they need is imported when one runs, so that `check` starts fast."""
    app.command()(export)
    app.command()(families)


def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A Hugging Face directory.")],
    out: Annotated[Path, typer.Option(metavar="GUARD", help="The guard directory to write.")],
    family: Annotated[str | None, typer.Option(help="A row of `guardpass families` (default: detected).")] = None,
    quant: Annotated[str, typer.Option(help="fp32, int8 or int4.")] = "int8",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing GUARD.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compile a checkpoint into a guard."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from . import export_guard

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
            checkpoint, out, family_name=family, quant=quant, force=force,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    size = sum(file.size for file in manifest.files.values())
    if as_json:
        print(json.dumps({"guard": str(out), "family": manifest.family, "quant": quant, "bytes": size}))
    else:
        print(f"{out}: {manifest.family}, {quant}, {size / 1e6:.1f} MB")


def _stop(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def families(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """List the families a checkpoint can belong to."""
    from guardpass.schema import encode

    from .families import FAMILIES

    if as_json:
        print(json.dumps({row.name: encode(row) for row in FAMILIES}, ensure_ascii=False))
        return
    for row in FAMILIES:
        print(f"{row.name}  modes: {', '.join(row.modes)}  checkpoints: {', '.join(row.checkpoints)}")
        print("    " + "  ".join(f"{a.token} {a.category or 'safe'}" for a in row.answers))
