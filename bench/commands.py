"""`guardpass twin` and `demo`."""

import json
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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
    quant: Annotated[str, typer.Option(help="fp32, int8 or int4.")] = "int8",
    held_out: Annotated[bool, typer.Option("--held-out", help="Accuracy on the held-out sets instead.")] = False,
    as_json: Json = False,
) -> None:
    """Export the demo guard and judge Korean and English sentences with it."""
    from dataclasses import asdict

    from .demo import fidelity, run

    if held_out:
        found = fidelity.fidelity(quant)
        print(json.dumps([asdict(each) for each in found]) if as_json else "\n".join(map(str, found)))
        return
    verdicts = run.judge(quant)
    if as_json:
        print(json.dumps([verdict.to_json() for verdict in verdicts], ensure_ascii=False))
    else:
        run.show(quant, verdicts)
