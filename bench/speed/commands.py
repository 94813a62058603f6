"""`guardpass bench`: run it, compare two results, show one again, install a peer."""

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from guardpass.errors import InputError
from guardpass.format.manifest import Mode

if TYPE_CHECKING:
    from .measure.contenders import RunContext
    from .measure.prepare import Options
    from .measure.run import Plan
    from .report.schema import Row

_SCENARIOS = ("single", "server", "offline")
_PEERS, _LOAD, _MAKING, _OUTPUT = "Peers", "Scenarios server and offline", "Twins and guards", "Output"


class _RunByDefault(TyperGroup):
    """Takes `bench TARGET` for `bench run TARGET`: the first argument that names no command is a target."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RunByDefault, no_args_is_help=True, help="Measure guards and other engines: `guardpass bench TARGET...`."
)

Work = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Keep twins, guards and peers' files in this folder.",
        show_default="the user's cache",
    ),
]
Plots = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Draw PNG and SVG files into this folder.", rich_help_panel=_OUTPUT)
]


@app.command()
def run(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="GUARD|CHECKPOINT|NAME...",
            help="Guard directories, checkpoint directories, or names of published checkpoints: a name benches a "
            "shape twin, which has random weights.",
        ),
    ],
    quant: Annotated[
        str,
        typer.Option(
            help="Quantizations of the guards, comma-separated: int8 (engine onnx), 'native int8', q8_0 (llama.cpp). "
            "The others are compared with the first."
        ),
    ] = "int8",
    lengths: Annotated[
        str, typer.Option(help="Content lengths in tokens for scenario single, comma-separated.")
    ] = "16,32,64,128,256,512,1024",
    scenario: Annotated[
        str, typer.Option(help=f"Scenarios to run, comma-separated: {', '.join(_SCENARIOS)}.")
    ] = "single",
    turns: Annotated[
        int, typer.Option(min=1, help="Number of timed requests of each length, after two that warm up.")
    ] = 15,
    texts: Annotated[
        int, typer.Option(min=0, help="Number of texts whose verdicts are compared with fp32; 0 compares none.")
    ] = 48,
    mode: Annotated[
        Mode | None,
        typer.Option(help="Judge prompts or responses.", show_default="prompt, or the only mode of the guard"),
    ] = None,
    whole: Annotated[
        bool,
        typer.Option(
            "--whole",
            help="Also measure all policies, in one pass and one after another, and peers that decode whole answers.",
        ),
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Number of threads of every engine.", show_default="the usable cores")
    ] = None,
    cores: Annotated[str, typer.Option(metavar="0,1", help="Bind every engine to these cores.")] = "",
    neighbours: Annotated[
        int, typer.Option(min=0, help="Number of other processes that keep a core busy meanwhile.")
    ] = 0,
    peers: Annotated[str, typer.Option(help="Names of peers, comma-separated, or all.", rich_help_panel=_PEERS)] = "",
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="Measure only the peers' settings whose name contains TEXT (repeatable).",
            rich_help_panel=_PEERS,
        ),
    ] = None,
    load: Annotated[
        int, typer.Option(min=1, help="Content length in tokens for server and offline.", rich_help_panel=_LOAD)
    ] = 64,
    requests: Annotated[
        int,
        typer.Option(
            min=10,
            help="Number of requests at each rate, and offline; a p95 needs 72.",
            rich_help_panel=_LOAD,
        ),
    ] = 100,
    p95: Annotated[
        float | None,
        typer.Option(
            metavar="MS",
            help="Find the highest rate that keeps p95 within MS.",
            show_default="five times the median of single",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed of the requests' arrival times.", rich_help_panel=_LOAD)
    ] = 0,
    layers: Annotated[
        int | None, typer.Option(min=1, help="Cut twins to this number of layers.", rich_help_panel=_MAKING)
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Give twins the vocabulary of DIR/tokenizer.json.", rich_help_panel=_MAKING),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Family of the checkpoints, a name or a TOML file.",
            show_default="detected",
            rich_help_panel=_MAKING,
        ),
    ] = None,
    date: Annotated[
        str | None,
        typer.Option(
            metavar="YYYY-MM-DD", help="Today's date for chat templates that print it.", rich_help_panel=_MAKING
        ),
    ] = None,
    work: Work = None,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="Write the result to FILE, as JSON, or as JSONL where FILE ends so.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    plots: Plots = None,
    prepare: Annotated[
        bool,
        typer.Option("--prepare", help="Make twins, guards and peers' files, and measure nothing."),
    ] = False,
) -> None:
    """Measure guards, and peers on the same prompts; print markdown."""
    from guardpass.engines.hardware import usable_cores

    from ..extras import make_folder
    from .measure.contenders import RunContext, chosen
    from .measure.prepare import Options, check
    from .measure.run import Plan
    from .report.files import check_file

    scenarios = frozenset(_listed(scenario))
    if not scenarios or scenarios - set(_SCENARIOS):
        raise InputError(f"--scenario is {scenario!r}, expected some of: {', '.join(_SCENARIOS)}")
    beside = f", beside {neighbours} busy process{'es' * (neighbours != 1)}" if neighbours else ""
    context = RunContext(threads or usable_cores(), _numbers("cores", cores) or None, _work(work), beside)
    plan = Plan(
        quants=tuple(_listed(quant)),
        peers=tuple(chosen(_listed(peers), only or (), whole)),
        scenarios=scenarios,
        lengths=_numbers("lengths", lengths),
        turns=turns,
        texts=texts,
        load=load,
        requests=requests,
        p95_ms=p95,
        neighbours=neighbours,
        seed=seed,
        mode=mode,
        whole=whole,
    )
    if not plan.quants:
        raise InputError("--quant is empty, expected at least one")
    options = Options(family, date, layers, tokenizer)
    check(targets, plan.quants, options, plan.mode)
    if json_file:
        check_file(json_file)
    if plots:
        make_folder(plots)
    if prepare:
        _prepare(targets, plan, options, context)
    else:
        _measure(targets, plan, options, context, json_file, plots)


def _prepare(targets: list[str], plan: "Plan", options: "Options", context: "RunContext") -> None:
    from .measure.prepare_only import prepare_only, prepared_markdown

    with _progress(len(targets) * (1 + len(plan.peers))) as progress:
        prepared = list(prepare_only(targets, plan.quants, plan.peers, options, context, progress))
    print(prepared_markdown(prepared))


def _measure(
    targets: list[str],
    plan: "Plan",
    options: "Options",
    context: "RunContext",
    json_file: Path | None,
    plots: Path | None,
) -> None:
    """Every row is written as soon as it is measured: a failure, or a kill, loses nothing that came before."""
    from .measure.rows import report as report_of
    from .measure.run import run as measured
    from .report.files import write_report
    from .report.markdown import markdown

    command = shlex.join(["guardpass", *sys.argv[1:]])
    rows: list[Row] = []
    with _progress(plan.steps(len(targets))) as progress:
        for row in measured(targets, plan, options, context, progress):
            rows.append(row)
            if json_file:
                write_report(report_of(command, rows), json_file)
    report = report_of(command, rows)
    if plots:
        from .plots.figures import draw

        draw(report, plots)
    print(markdown(report))


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(metavar="A.json", help="The result before the change.")],
    after: Annotated[Path, typer.Argument(metavar="B.json", help="The result after the change.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what changed between two results, beyond noise."""
    from guardpass.format.codec import encode
    from guardpass.jsonl import dump

    from .report.changes import changes_markdown, compare_reports
    from .report.files import read_report

    changes = compare_reports(read_report(before), read_report(after))
    print(dump(encode(changes)) if as_json else changes_markdown(changes))


@app.command()
def show(
    result: Annotated[Path, typer.Argument(metavar="RESULT.json", help="A result of `guardpass bench --json`.")],
    plots: Plots = None,
) -> None:
    """Print a result as markdown, and draw its plots."""
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
def setup_peer(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of a peer.")], work: Work = None
) -> None:
    """Install a peer into an environment of its own."""
    from ..peers.environments import setup_peer as set_up

    print(set_up(name, _work(work), progress=lambda line: print(line, file=sys.stderr)))


def _work(folder: Path | None) -> Path:
    if folder:
        return folder.absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "guardpass" / "bench"


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in _listed(text))
    except ValueError:
        numbers = (-1,)
    if any(number < 0 for number in numbers) or len(set(numbers)) != len(numbers):
        raise InputError(f"--{option} is {text!r}, expected different whole numbers, comma-separated")
    return numbers


@contextmanager
def _progress(steps: int) -> Iterator[Callable[[str], None]]:
    """A progress bar on a terminal; otherwise a line for each step."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda line: print(line, file=sys.stderr, flush=True)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=steps, completed=-1)  # a step is reported when it begins
        yield lambda line: bar.update(task, description=line, advance=1)
