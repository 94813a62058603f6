"""`python -m guardpass.bench.service SCENARIO GUARD [...]`: the figures of docs/reliability.md."""

from pathlib import Path
from typing import Annotated

import typer

from guardpass import Guard
from guardpass.jsonl import dump

from .process import served
from .scenarios import bare_checks, churn, overhead, overload, soak
from .texts import text_of_tokens

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
GuardPath = Annotated[Path, typer.Argument(metavar="GUARD")]
Tokens = Annotated[int, typer.Option(help="Tokens of each text.")]
Options = Annotated[list[str] | None, typer.Option("--serve", help="More for `guardpass serve` (repeatable).")]


@app.command("overhead")
def _overhead(guard: GuardPath, tokens: Tokens = 128, requests: int = 500, option: Options = None) -> None:
    """What a request takes beyond its pass, one client."""
    with Guard.load(guard) as bare:
        text = text_of_tokens(bare, tokens)
        alone = bare_checks(bare, text, requests)
    with served([guard], *(option or [])) as server:
        print(dump(overhead(server, text, requests) | alone))


@app.command("overload")
def _overload(
    guard: GuardPath,
    tokens: Tokens = 128,
    seconds: float = 60.0,
    times: float = 5.0,
    deadline_ms: int = 2000,
    option: Options = None,
) -> None:
    """Many times what the server can do."""
    with Guard.load(guard) as bare:
        texts = [text_of_tokens(bare, tokens, number) for number in range(32)]
    with served([guard], "--deadline-ms", str(deadline_ms), *(option or [])) as server:
        print(dump(overload(server, texts, seconds=seconds, times=times, deadline=deadline_ms / 1e3)))


@app.command("churn")
def _churn(guard: GuardPath, requests: int = 10000, clients: int = 64, option: Options = None) -> None:
    """Clients that leave, dribble, cancel."""
    with Guard.load(guard) as bare:
        texts = [text_of_tokens(bare, 8 + number % 40, number) for number in range(200)]
        expected = {text: bare.check(text).score for text in texts}
    with served([guard], *(option or [])) as server:
        print(dump(churn(server, expected, requests=requests, clients=clients)))


@app.command("soak")
def _soak(
    guard: GuardPath, tokens: Tokens = 128, minutes: float = 30.0, share: float = 0.6, option: Options = None
) -> None:
    """A share of the capacity for long."""
    with Guard.load(guard) as bare:
        texts = [text_of_tokens(bare, tokens, number) for number in range(32)]
    with served([guard], *(option or [])) as server:
        print(dump(soak(server, texts, minutes=minutes, share=share)))


if __name__ == "__main__":
    app()
