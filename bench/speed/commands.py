"""`guardpass bench`: run it, compare two of its results, set a peer up."""

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer
from typer.core import TyperGroup

from guardpass.errors import InputError
from guardpass.manifest import Mode

if TYPE_CHECKING:
    from .report.schema import Row

_SCENARIOS = ("single", "server", "offline")


class _RunByDefault(TyperGroup):
    """What is no command is what to bench."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RunByDefault, no_args_is_help=True, help="Measure guards and other engines: `guardpass bench TARGET...`."
)

Work = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where twins, guards and peers' files are kept (default: the user's cache)."),
]


@app.command()
def run(
    targets: Annotated[
        list[str],
        typer.Argument(metavar="GUARD|CHECKPOINT|NAME...", help="NAME: a published checkpoint; benches a shape twin."),
    ],
    quant: Annotated[
        str, typer.Option(help="Of the guards, as int8, native int8, q8_0; others are held to the first.")
    ] = "int8",
    peers: Annotated[str, typer.Option(help="Comma-separated, or all.")] = "",
    only: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Of peers, only settings that contain this (repeatable).")
    ] = None,
    lengths: Annotated[str, typer.Option(help="Tokens of content, for scenario single.")] = "16,32,64,128,256,512,1024",
    scenario: Annotated[str, typer.Option(help="single, server, offline; comma-separated.")] = "single",
    turns: Annotated[int, typer.Option(min=1, help="Requests of each length, after two to warm up.")] = 15,
    texts: Annotated[int, typer.Option(min=0, help="Texts by which verdicts are compared with fp32; 0: none.")] = 48,
    load: Annotated[int, typer.Option(min=1, help="Tokens of content, for scenarios server and offline.")] = 64,
    requests: Annotated[int, typer.Option(min=10, help="At each rate, and offline; p95 needs 72.")] = 100,
    p95: Annotated[
        float | None, typer.Option(metavar="MS", help="The bound of scenario server (default: 5 medians of single).")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of every engine (default: the cores at hand).")] = None,
    cores: Annotated[str, typer.Option(metavar="0,1", help="Cores that every engine is bound to.")] = "",
    mode: Annotated[
        str | None, typer.Option(help="prompt or response (default: prompt, or what the guard has).")
    ] = None,
    whole: Annotated[
        bool,
        typer.Option("--whole", help="Also all policies, in one pass and one after another; peers that decode it all."),
    ] = False,
    neighbours: Annotated[int, typer.Option(min=0, help="Processes that keep a core busy meanwhile.")] = 0,
    layers: Annotated[int | None, typer.Option(min=1, help="Cut twins to so many layers.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(metavar="DIR", help="Its tokenizer.json, for twins.")] = None,
    family: Annotated[str | None, typer.Option(metavar="NAME|FILE", help="Of a checkpoint, where undetected.")] = None,
    date: Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="For chat templates that print it.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the arrivals.")] = 0,
    work: Work = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it: JSON, or JSONL by suffix.")] = None,
    plots: Annotated[Path | None, typer.Option(metavar="DIR", help="Draw PNG and SVG into this folder.")] = None,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Make twins, guards and peers' files, and measure nothing.")
    ] = False,
) -> None:
    """Measure guards, and peers on the same prompts; print markdown."""
    from guardpass.engines.cpu import usable_cores

    from ..extras import make_folder
    from .measure.contenders import Given, chosen
    from .measure.prepare import Options
    from .measure.prepare_only import ready, ready_markdown
    from .measure.rows import report as report_of
    from .measure.run import Plan
    from .measure.run import run as measured
    from .report.files import check_file, write_report
    from .report.markdown import markdown

    asked = frozenset(_listed(scenario))
    if not asked or asked - set(_SCENARIOS):
        raise InputError(f"--scenario is {scenario!r}, expected some of: {', '.join(_SCENARIOS)}")
    if mode not in (None, *get_args(Mode)):
        raise InputError(f"--mode is {mode!r}, expected one of: {', '.join(get_args(Mode))}")
    if json:
        check_file(json)
    if plots:
        make_folder(plots)
    beside = f", beside {neighbours} busy process{'es' * (neighbours != 1)}" if neighbours else ""
    given = Given(threads or usable_cores(), _numbers("cores", cores) or None, _work(work), beside)
    plan = Plan(
        quants=tuple(_listed(quant)), peers=tuple(chosen(_listed(peers), only or (), whole)), scenarios=asked,
        lengths=_numbers("lengths", lengths), turns=turns, texts=texts, load=load, requests=requests, p95_ms=p95,
        neighbours=neighbours, seed=seed, mode=cast(Mode | None, mode), whole=whole,
    )  # fmt: skip
    if not plan.quants:
        raise InputError("--quant is empty, expected at least one")
    options = Options(family, date, layers, tokenizer)
    if prepare:
        with _progress(len(targets) * (1 + len(plan.peers))) as told:
            made = list(ready(targets, plan.quants, plan.peers, options, given, told))
        print(ready_markdown(made))
        return
    command = shlex.join(["guardpass", *sys.argv[1:]])
    rows: list[Row] = []
    with _progress(plan.steps(len(targets))) as told:
        for row in measured(targets, plan, options, given, told):
            rows.append(row)
            if json:  # row by row: what was measured before a failure, or before the process is killed, is kept
                write_report(report_of(command, rows), json)
    report = report_of(command, rows)
    if plots:
        from .plots.figures import draw

        draw(report, plots)
    print(markdown(report))


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(metavar="A.json")],
    after: Annotated[Path, typer.Argument(metavar="B.json")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what changed from one result to another, beyond noise."""
    from guardpass.jsonl import dump
    from guardpass.schema import encode

    from .report.changes import changes_markdown, compare_reports
    from .report.files import read_report

    changes = compare_reports(read_report(before), read_report(after))
    print(dump(encode(changes)) if as_json else changes_markdown(changes))


@app.command()
def show(
    result: Annotated[Path, typer.Argument(metavar="RESULT.json")],
    plots: Annotated[Path | None, typer.Option(metavar="DIR", help="Draw PNG and SVG into this folder.")] = None,
) -> None:
    """Print a result as markdown again, and draw it."""
    from ..extras import make_folder
    from .report.files import read_report
    from .report.markdown import markdown

    report = read_report(result)
    if plots:
        make_folder(plots)
        from .plots.figures import draw

        draw(report, plots)
    print(markdown(report))


@app.command("setup-peer")
def setup_peer(name: Annotated[str, typer.Argument(metavar="NAME")], work: Work = None) -> None:
    """Install a peer into an environment of its own."""
    from ..peers.environments import setup_peer as set_up

    print(set_up(name, _work(work), progress=lambda line: print(line, file=sys.stderr)))


def _work(given: Path | None) -> Path:
    if given:
        return given.absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "guardpass" / "bench"


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in _listed(text))
    except ValueError:
        found = (-1,)
    if any(number < 0 for number in found) or len(set(found)) != len(found):
        raise InputError(f"--{option} is {text!r}, expected different whole numbers, comma-separated")
    return found


@contextmanager
def _progress(steps: int) -> Iterator[Callable[[str], None]]:
    """What is being done, and how far it is, on a terminal; else a line each."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda line: print(line, file=sys.stderr, flush=True)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=steps, completed=-1)  # a step is told when it begins
        yield lambda line: bar.update(task, description=line, advance=1)
