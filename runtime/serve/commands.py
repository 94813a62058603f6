"""`guardpass serve`. Its defaults are those of `Settings`."""

from typing import Annotated

import typer

from ..errors import MissingDependency
from ..format.manifest import Device
from ..on_error import OnError
from ..request import Normalize
from ..windows import LongText
from .settings import Settings, Unjudged


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)


def serve(
    guards: Annotated[
        list[str],
        typer.Argument(metavar="GUARD", help="Guard directories. NAME=PATH serves the guard at PATH by the name NAME."),
    ],
    host: Annotated[str, typer.Option(help="Listen on this address.")] = Settings.host,
    port: Annotated[int, typer.Option(help="Listen on this port; 0 takes a free one and logs it.")] = Settings.port,
    api_key_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Let in requests with an API key of this file, one a line.")
    ] = Settings.api_key_file,
    without_key: Annotated[
        bool, typer.Option("--without-key", help="Listen beyond the loopback without API keys.")
    ] = Settings.without_key,
    max_queue: Annotated[
        int, typer.Option(help="Let this number of requests wait for each guard; more get 429.")
    ] = Settings.max_queue,
    max_queue_tokens: Annotated[
        int, typer.Option(help="Let about this number of tokens wait for each guard; more get 429.")
    ] = Settings.max_queue_tokens,
    deadline_ms: Annotated[
        float, typer.Option(help="Answer a request within this number of milliseconds, or with 504.")
    ] = Settings.deadline * 1e3,
    workers: Annotated[
        int, typer.Option(help="Run this number of processes; each opens every guard.")
    ] = Settings.workers,
    threads: Annotated[
        int | None,
        typer.Option(help="Number of engine threads of each worker.", show_default="the usable cores / workers"),
    ] = Settings.threads,
    device: Annotated[
        Device | None,
        typer.Option(help="Run every guard on this device.", show_default="the one a guard was exported for"),
    ] = Settings.device,
    in_memory: Annotated[
        bool,
        typer.Option(
            "--in-memory",
            help="Read ONNX weights into memory, so that their files may change in place; this takes twice the memory.",
        ),
    ] = Settings.in_memory,
    max_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens of one pass, prefix included.", show_default="2048, or the context"),
    ] = Settings.max_tokens,
    max_windows: Annotated[
        int, typer.Option(help="Refuse a text that takes more windows than this.")
    ] = Settings.max_windows,
    long_text: Annotated[
        LongText, typer.Option(help="What to do with a text that does not fit one pass.")
    ] = Settings.long_text,
    normalize: Annotated[
        Normalize, typer.Option(help="Judge the plain form of a text with invisible characters too.")
    ] = Settings.normalize,
    on_error: Annotated[
        OnError,
        typer.Option(help="On failure, answer an HTTP error (raise), an unsafe verdict (block) or a safe one (allow)."),
    ] = Settings.on_error,
    unjudged: Annotated[
        Unjudged,
        typer.Option(help="Block images, audio and files, which guards cannot judge, or allow and list them."),
    ] = Settings.unjudged,
    max_body: Annotated[
        int, typer.Option(help="Bytes of a request's body; more get 413, from LiteLLM BLOCKED.")
    ] = Settings.max_body,
    max_items: Annotated[
        int, typer.Option(help="Texts of a request; more get 413, and LiteLLM's are judged in batches.")
    ] = Settings.max_items,
    body_timeout: Annotated[
        float, typer.Option(help="Seconds in which a body must arrive, else 408.")
    ] = Settings.body_timeout,
    notice: Annotated[
        float, typer.Option(help="Seconds in which a server that stops still takes requests, while /ready says no.")
    ] = Settings.notice,
    drain: Annotated[
        float, typer.Option(help="Seconds in which a server that stops then answers the requests it took.")
    ] = Settings.drain,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Do not hash files over 64 MiB.")
    ] = not Settings.verify,
) -> None:
    """Serve guards over HTTP: OpenAI's moderations and chat API, LiteLLM's, and guardpass's own; a page at /."""
    settings = Settings(
        guards=tuple(guards),
        host=host,
        port=port,
        api_key_file=api_key_file,
        without_key=without_key,
        max_queue=max_queue,
        max_queue_tokens=max_queue_tokens,
        deadline=deadline_ms / 1e3,
        workers=workers,
        threads=threads,
        device=device,
        verify=not no_verify,
        in_memory=in_memory,
        max_tokens=max_tokens,
        max_windows=max_windows,
        long_text=long_text,
        normalize=normalize,
        on_error=on_error,
        unjudged=unjudged,
        max_body=max_body,
        max_items=max_items,
        body_timeout=body_timeout,
        notice=notice,
        drain=drain,
    )
    settings.check()
    try:
        from .launch import launch
    except ImportError as error:
        raise MissingDependency(f"{error.name} is not installed; install guardpass[serve]") from None
    code = launch(settings)
    if code:
        raise typer.Exit(code)
