"""`guardpass serve`."""

from typing import Annotated, cast, get_args

import typer

from ..errors import InputError, MissingDependency
from ..on_error import OnError
from .settings import Settings, Unjudged


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)


def serve(
    guards: Annotated[list[str], typer.Argument(metavar="GUARD...", help="Guard directories; NAME=PATH names one.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one, which the log tells.")] = 8080,
    api_key_file: Annotated[str | None, typer.Option(metavar="FILE", help="API keys, one a line.")] = None,
    without_key: Annotated[
        bool, typer.Option("--without-key", help="Listen on other than loopback addresses without a key.")
    ] = False,
    max_queue: Annotated[int, typer.Option(help="Requests that may wait, of each guard; more get 429.")] = 64,
    max_queue_tokens: Annotated[int, typer.Option(help="About as many tokens may wait, of each guard.")] = 1 << 16,
    deadline_ms: Annotated[float, typer.Option(help="Time a request may take; then 504.")] = 10000.0,
    workers: Annotated[int, typer.Option(help="Processes; each opens every guard.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Engine threads of each (default: cores / workers).")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default what a guard was exported for.")] = None,
    in_memory: Annotated[
        bool,
        typer.Option("--in-memory", help="Read ONNX weights: files may change in place; twice the memory."),
    ] = False,
    max_tokens: Annotated[int | None, typer.Option(help="Positions of one pass.")] = None,
    max_windows: Annotated[int, typer.Option(help="Refuse text that takes more windows.")] = 16,
    long_text: Annotated[str, typer.Option(help="windows, refuse or truncate.")] = "windows",
    normalize: Annotated[
        str, typer.Option(help="on also judges the plain form of texts with invisible characters; off does not.")
    ] = "on",
    on_error: Annotated[str, typer.Option(help="What fails: raise (an HTTP error), block or allow.")] = "raise",
    unjudged: Annotated[
        str, typer.Option(help="What is no text (images, audio, files): block, or allow and list it in the answer.")
    ] = "block",
    max_body: Annotated[int, typer.Option(help="Bytes of a body; more get 413, from LiteLLM BLOCKED.")] = 1 << 20,
    max_items: Annotated[int, typer.Option(help="Texts of a request; more get 413, LiteLLM's are split.")] = 64,
    body_timeout: Annotated[float, typer.Option(help="Seconds a body may take to come; then 408.")] = 10.0,
    notice: Annotated[float, typer.Option(help="Seconds between /ready's no and the closing of the port.")] = 1.0,
    drain: Annotated[float, typer.Option(help="Seconds that accepted requests may take after that.")] = 30.0,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Do not hash files over 64 MiB.")] = False,
) -> None:
    """Serve guards over HTTP: OpenAI's moderations and chat API, LiteLLM's, and guardpass's own; a page at /."""
    if on_error not in get_args(OnError):
        raise InputError(f"on-error is {on_error!r}, expected one of: {', '.join(get_args(OnError))}")
    if unjudged not in get_args(Unjudged):
        raise InputError(f"unjudged is {unjudged!r}, expected one of: {', '.join(get_args(Unjudged))}")
    settings = Settings(
        guards=tuple(guards), host=host, port=port, api_key_file=api_key_file, without_key=without_key,
        max_queue=max_queue, max_queue_tokens=max_queue_tokens, deadline=deadline_ms / 1e3, workers=workers,
        threads=threads, device=device, verify=not no_verify, in_memory=in_memory, max_tokens=max_tokens,
        max_windows=max_windows, long_text=long_text, normalize=normalize, on_error=cast(OnError, on_error),
        unjudged=cast(Unjudged, unjudged), max_body=max_body, max_items=max_items, body_timeout=body_timeout,
        notice=notice, drain=drain,
    )  # fmt: skip
    settings.check()
    try:
        from .launch import launch
    except ImportError as error:
        raise MissingDependency(f"{error.name} is not installed; install guardpass[serve]") from None
    code = launch(settings)
    if code:
        raise typer.Exit(code)
