"""`guardpass twin` and `demo`."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add bench's commands; what they need is imported when one runs."""
    app.command()(twin)
    app.command()(demo)


def twin(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A published checkpoint, see `guardpass families`.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The checkpoint directory to write.")],
    tiny: Annotated[bool, typer.Option("--tiny", help="The same layout and quirks, a few hundred kilobytes.")] = False,
    layers: Annotated[int | None, typer.Option(min=1, help="Fewer layers than published.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Take the vocabulary of this tokenizer.json.")
    ] = None,
) -> None:
    """Write a checkpoint with a published shape and random weights."""
    from dataclasses import replace

    from . import twin as twins

    row = twins.find(name)
    row = twins.tiny(row) if tiny else row
    if layers is not None:
        row = replace(row, config=row.config | {"num_hidden_layers": layers})
    twins.write_twin(row, out, tokenizer=tokenizer)
    print(f"{out}: {name} with random weights, {row.config['num_hidden_layers']} layers")


def demo(
    quant: Annotated[str, typer.Option(help="fp32, int8 or int4.")] = "int8",
    held_out: Annotated[bool, typer.Option("--held-out", help="Accuracy on the held-out sets instead.")] = False,
) -> None:
    """Export the demo guard and judge Korean and English sentences with it."""
    from .demo import run

    if held_out:
        run.report(quant)
    else:
        run.show(quant)
