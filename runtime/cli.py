"""The `guardpass` command. Data goes to stdout, messages to stderr; the exit code is the error's own."""

import io
import sys
from importlib.metadata import entry_points
from typing import Annotated

import typer

from . import __version__
from .errors import GuardpassError


def _version(wanted: bool) -> None:
    if wanted:
        print(f"guardpass {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Guard models as one prefill pass."""


def main() -> None:
    """Run the command line; every installed part of guardpass registers its own commands."""
    app = typer.Typer(
        help="Guard models as one prefill pass.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_options)
    for part in sorted(entry_points(group="guardpass.commands"), key=lambda entry: entry.name):
        part.load()(app)
    for stream in (sys.stdout, sys.stderr):
        # JSON and JSONL are UTF-8, whatever the terminal's locale; lone surrogates are escaped.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        app(prog_name="guardpass")  # also by `python -m guardpass`: the completion script needs a word
    except GuardpassError as error:
        print(f"guardpass: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
