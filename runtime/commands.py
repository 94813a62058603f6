"""`guardpass check`, `info` and `verify`."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from .describe import describe, draw, gate_line, labels_of
from .errors import GuardpassError, InputError
from .format.codec import encode
from .format.integrity import open_guard
from .format.manifest import Device
from .guard import Guard
from .jsonl import dump, parse, read_lines
from .request import CheckOptions, Normalize
from .tokenizer import ContentTokenizer
from .verdict import Verdict
from .windows import LongText

_KEYS = ("text", "response", "id")  # of a line
UNSAFE_CODE = 1  # of `check --fail-unsafe`
_SECONDS = 0.2  # between two lines of progress
_ERASE = "\r\033[K"  # the terminal's line

GuardPath = Annotated[Path, typer.Argument(metavar="GUARD", help="A guard directory.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def register(app: typer.Typer) -> None:
    """Add the runtime's commands."""
    app.command()(check)
    app.command()(info)
    app.command()(verify)


def check(
    guard: GuardPath,
    text: Annotated[str | None, typer.Argument(help="The user's text; - reads it from stdin.")] = None,
    response: Annotated[str | None, typer.Option(help="Judge this reply of the assistant to TEXT.")] = None,
    jsonl: Annotated[
        str | None,
        typer.Option(metavar="FILE", help='Judge lines of {"text", "response"?, "id"?}; - reads them from stdin.'),
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option(help="Judge by this policy alone. Repeatable [default: the guard's own].")
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(metavar="[FIELD=]SCORE", help="Call a text unsafe from this score on. Repeatable for fields."),
    ] = None,
    loose: Annotated[bool, typer.Option("--loose", help="Count controversial answers as safe.")] = False,
    temperature: Annotated[
        float, typer.Option(help="Softmax temperature for the unsafe score (ShieldGemma's T).")
    ] = 1.0,
    alpha: Annotated[float, typer.Option(help="Smoothing added to the unsafe score (ShieldGemma's alpha).")] = 0.0,
    threads: Annotated[
        int | None, typer.Option(help="Number of engine threads [default: usable cores].", show_default=False)
    ] = None,
    device: Annotated[
        Device | None, typer.Option(help="Where the guard runs [default: the device it was exported for].")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Tokens of one pass, prefix included [default: 2048, or the context].")
    ] = None,
    max_windows: Annotated[int, typer.Option(help="Refuse a text that takes more windows than this.")] = 16,
    long_text: Annotated[LongText, typer.Option(help="What to do with a text that does not fit one pass.")] = "windows",
    normalize: Annotated[
        Normalize, typer.Option(help="Judge the plain form of a text with invisible characters too.")
    ] = "on",
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Do not hash files over 64 MiB.")] = False,
    fail_unsafe: Annotated[
        bool, typer.Option("--fail-unsafe", help="Exit with code 1 where a text is unsafe and none fails.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Judge a text, a reply, or a file of them."""
    if (text is None) == (jsonl is None):
        raise InputError("expected either TEXT or --jsonl FILE")
    if jsonl is not None and response is not None:
        raise InputError("--response goes with TEXT; in a JSONL file each line has its own")
    opened = Guard.load(
        guard,
        threads=threads,
        device=device,
        verify=not no_verify,
        max_tokens=max_tokens,
        max_windows=max_windows,
        long_text=long_text,
        normalize=normalize,
    )
    options: CheckOptions = {
        "policies": policy,
        "threshold": _threshold(threshold),
        "strict": not loose,
        "temperature": temperature,
        "alpha": alpha,
    }
    if jsonl is None:
        content = _stdin_text() if text == "-" else cast(str, text)
        verdict = opened.check(content, response, **options)
        print(dump(verdict.to_json()) if as_json else _line(verdict))
        unsafe, worst = not verdict.safe, 0
    else:
        unsafe, worst = _check_file(opened, jsonl, options)
    if worst or (fail_unsafe and unsafe):
        raise typer.Exit(worst or UNSAFE_CODE)


def info(
    guard: GuardPath,
    tree: Annotated[bool, typer.Option("--tree", help="Draw the verdict tree of every mode.")] = False,
    as_json: Json = False,
) -> None:
    """Show a guard's modes, labels, thresholds and files, without opening its model."""
    manifest = open_guard(guard, verify=False)
    tokenizer = ContentTokenizer.of(guard, manifest)
    body = describe(manifest, tokenizer)
    if as_json:
        print(dump(body))
        return
    engine = manifest.engine
    print(
        f"{manifest.name}: family {manifest.family}, engine {engine.name}, {engine.quant}, context {manifest.context}"
    )
    print(f"gate: {gate_line(manifest)}")
    print(*(f"note: {note}\n" for note in manifest.source.notes), sep="", end="")
    deciding = {field for mode in manifest.modes.values() for field in mode.decides}
    for name, mode in body["modes"].items():
        print(f"mode {name}:")
        steps = mode["step_by_step"]
        print(f"    one pass:     {mode['prefix']} tokens baked, {mode['span']} + text + tree of {mode['tree']} run")
        print(
            f"    step by step: {steps['prompts']} x the text, {steps['tokens']} tokens around it, "
            f"{steps['steps']} decode steps"
        )
        print(f"    {mode['slots']} slots: {', '.join(mode['fields'])}")
        if mode["policies"]:
            print(f"    policies: {', '.join(mode['policies'])}")
        for field, line in manifest.modes[name].thresholds.items():
            print(
                f"    {field}: unsafe from {line.score:.6g}, chosen for {line.at} on {line.texts} texts "
                f"(sha256 {line.sha256[:12]})"
            )
        if tree:
            print(*(f"      {line}" for line in draw(manifest, manifest.modes[name].tree, tokenizer.shown)), sep="\n")
    for field, labels in labels_of(manifest).items():
        print(f"field {field}")
        for label in labels:
            meaning: list[str] = [label.severity] if field in deciding else []
            meaning += [label.category] if label.category else []
            meaning += [f"(OpenAI {label.openai})"] if label.openai else []
            print(f"    {label.name}  {'  '.join(meaning)}".rstrip())
    for name, file in manifest.files.items():
        print(f"file {name}: {file.size / 1e6:.1f} MB, sha256 {file.sha256}")


def verify(guard: GuardPath, as_json: Json = False) -> None:
    """Hash every file of a guard against its manifest."""
    manifest = open_guard(guard)
    files = {name: encode(file) for name, file in manifest.files.items()}
    print(dump({"intact": True, "files": files}) if as_json else f"{guard}: intact, {len(files)} files")


def _threshold(arguments: list[str] | None) -> float | dict[str, float] | None:
    """The threshold of all fields (`0.7`), or those of fields (`hate=0.7`, repeatable)."""
    thresholds: dict[str, float] = {}
    for text in arguments or ():
        field, _, value = text.rpartition("=")
        if field in thresholds:
            raise InputError(f"threshold of {field or 'all fields'} is given twice, expected once")
        try:
            thresholds[field] = float(value)
        except ValueError:
            raise InputError(f"threshold is {text!r}, expected a number, or FIELD=NUMBER") from None
    if "" in thresholds and len(thresholds) > 1:
        raise InputError("threshold: found a number and fields, expected one number or FIELD=NUMBER for each field")
    return thresholds.get("", thresholds or None)


def _check_file(guard: Guard, source: str, options: CheckOptions) -> tuple[bool, int]:
    """Print each line's answer; returns whether a text is unsafe, and the worst error's exit code."""
    judged = unsafe = failed = worst = 0
    shows, shown = sys.stderr.isatty(), 0.0
    began = time.monotonic()

    def summary() -> str:
        rate = judged / max(time.monotonic() - began, 1e-9)
        return f"{judged} lines, {unsafe} unsafe, {failed} failed, {rate:.1f} a second"

    for line in read_lines(source):
        answer, code = _check_line(guard, line, options)
        if shows and shown:
            print(_ERASE, end="", file=sys.stderr, flush=True)
        print(dump(answer), flush=True)
        judged, failed, worst = judged + 1, failed + bool(code), max(worst, code)
        unsafe += answer.get("safe") is False
        if shows and time.monotonic() - shown > _SECONDS:
            shown = time.monotonic()
            print(f"{_ERASE}guardpass: {summary()}", end="", file=sys.stderr, flush=True)
    if shows:
        print(f"{_ERASE}guardpass: {summary()}", file=sys.stderr)
    if failed:
        print(
            f"guardpass: {failed} lines could not be judged; their answers on stdout have the reasons", file=sys.stderr
        )
    return unsafe > 0, worst


def _check_line(guard: Guard, line: bytes, options: CheckOptions) -> tuple[dict[str, Any], int]:
    """A line's answer, and its exit code."""
    answer: dict[str, Any] = {}
    try:
        item = parse(line, _KEYS)
        answer = {"id": item["id"]} if "id" in item else {}
        if "text" not in item:
            raise InputError('the line has no "text"')
        return guard.check(item["text"], item.get("response"), **options).to_json() | answer, 0
    except GuardpassError as error:
        return answer | {"error": str(error)}, error.exit_code


def _stdin_text() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise InputError(f"stdin is not UTF-8: {error.reason} at byte {error.start}") from None


def _line(verdict: Verdict) -> str:
    parts = ["safe" if verdict.safe else "unsafe"]
    parts += [verdict.field] if len(verdict.fields) > 1 else []
    parts += [verdict.label, *verdict.categories, f"score {verdict.score:.4f}", f"margin {verdict.margin:+.3f}"]
    parts += [f"{verdict.tokens.run} tokens run", f"{verdict.ms.total:.1f} ms"]
    parts += [f"{verdict.windows} windows"] if verdict.windows > 1 else []
    parts += ["truncated"] if verdict.truncated else []
    parts += ["normalized"] if verdict.normalized else []
    parts += [f"suspicious literals {' '.join(verdict.suspicious_literals)}"] if verdict.suspicious_literals else []
    return "  ".join(parts)
