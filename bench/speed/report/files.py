"""Reports in files: versioned JSON, one row a line; or JSONL, whose lines stand alone, so that files can be joined."""

import json
import math
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from guardpass.errors import InputError
from guardpass.format.codec import decode, encode

from .schema import SCHEMA, Report, Row

T = TypeVar("T")
LINES = ".jsonl"  # the suffix of JSONL; any other is JSON
KINDS = tuple(each.name for each in fields(Report) if each.name not in ("schema", "command"))  # of rows


@dataclass(frozen=True)
class _Line:
    """One line of JSONL, which has its "row" too. command: of the run that the row is of."""

    schema: int
    kind: str
    command: str


def rows(report: Report) -> Iterator[tuple[str, Row]]:
    """Every row, and the name of its kind."""
    for kind in KINDS:
        yield from ((kind, row) for row in getattr(report, kind))


def check_file(path: Path) -> None:
    """Raises InputError where no file can be made: before a run that takes an hour, not after it."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        what = "it is a folder" if path.is_dir() else "its parent is no folder"
        raise InputError(f"{path} cannot be written: {what}; choose another --json")


def write_report(report: Report, path: Path) -> None:
    """Write JSON, or JSONL where `path` ends so, whole or not at all; a file of that name is replaced.

    Raises InputError where it cannot be written.
    """
    text = (to_lines if path.suffix == LINES else to_json)(report)
    target = path.resolve()
    partial = target.with_name(f".{target.name}.partial-{secrets.token_hex(4)}")
    try:
        with partial.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another --json") from None
    finally:
        partial.unlink(missing_ok=True)


def read_report(path: Path) -> Report:
    """What `write_report` wrote, and lines of several runs in one file.

    Raises InputError for a file that is absent or cut, of another schema, or with anything unknown in it.
    """
    try:
        data = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"cannot read {path}: {why}; expected a file of `guardpass bench --json`") from None
    if path.suffix != LINES:
        return _decoded(str(path), Report, _parsed(str(path), data))
    body: dict[str, Any] = {kind: [] for kind in KINDS}
    commands: dict[str, None] = {}  # in order
    for number, text in enumerate(data.split("\n"), start=1):
        if text.strip():
            where = f"{path} line {number}"
            body_of_line = _parsed(where, text)
            row = body_of_line.pop("row", None)
            line = _decoded(where, _Line, body_of_line)
            body.setdefault(line.kind, []).append(row)
            commands[line.command] = None
    if not commands:
        raise InputError(f"{path} has no rows; expected a file of `guardpass bench --json`")
    return _decoded(str(path), Report, body | {"schema": SCHEMA, "command": "; ".join(commands)})


def to_json(report: Report) -> str:
    """One row a line, so that files can be read and compared by line."""
    lists = [
        f' "{kind}": [' + ",".join(f"\n  {_dump(encode(row))}" for row in getattr(report, kind)) + "]" for kind in KINDS
    ]
    return f'{{\n "schema": {report.schema},\n "command": {_dump(report.command)},\n' + ",\n".join(lists) + "\n}\n"


def to_lines(report: Report) -> str:
    """One row a line, each with its kind, its environment and the command."""
    lines = ((_Line(report.schema, kind, report.command), row) for kind, row in rows(report))
    return "".join(f"{_dump(encode(line) | {'row': encode(row)})}\n" for line, row in lines)


def _dump(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def _parsed(where: str, text: str) -> dict[str, Any]:
    try:
        body = json.loads(text, parse_constant=_number, parse_float=_number)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON, or was cut: {error}; run `guardpass bench --json` again") from None
    schema = body.get("schema") if isinstance(body, dict) else None
    if schema != SCHEMA or isinstance(schema, bool):
        raise InputError(
            f"{where} has schema {schema!r}, this guardpass reads {SCHEMA}; run `guardpass bench --json` again, or use "
            "the guardpass that wrote it"
        )
    report: dict[str, Any] = body
    return report


def _number(text: str) -> float:
    """Infinities and NaN are no JSON, though Python's parser takes them."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def _decoded(where: str, kind: type[T], body: dict[str, Any]) -> T:
    try:
        return decode(kind, body)
    except ValueError as error:
        raise InputError(f"{where} is no report: {error}; run `guardpass bench --json` again") from None
