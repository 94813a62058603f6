"""A user's texts in JSONL, with or without labels."""

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guardpass.errors import InputError
from guardpass.format.manifest import Mode
from guardpass.jsonl import parse
from guardpass.tokenizer import checked

_TEXT = ("text", "response", "id")
_LABELLED = (*_TEXT, "unsafe", "labels", "category")


@dataclass(frozen=True)
class Line:
    """One text, or a text and the reply to it; line numbers count from 1.

    unsafe: the label. labels: labels of single fields, by name. category: the group that metrics count it in.
    """

    number: int
    id: Any  # any JSON value; None where the line has none
    text: str = field(repr=False)
    response: str | None = field(default=None, repr=False)
    unsafe: bool | None = None
    labels: dict[str, bool] = field(default_factory=dict)
    category: str | None = None

    @property
    def mode(self) -> Mode:
        return "prompt" if self.response is None else "response"


@dataclass(frozen=True)
class Lines:
    """The lines of a file. sha256 is that of its bytes."""

    path: Path
    sha256: str
    lines: tuple[Line, ...]

    def of(self, mode: Mode) -> tuple[Line, ...]:
        """The lines of one mode."""
        return tuple(line for line in self.lines if line.mode == mode)

    def modes(self, supported: Collection[str], guard: str) -> tuple[Mode, ...]:
        """The modes that judge these lines. Raises InputError naming a line whose mode the guard does not support."""
        for line in self.lines:
            if line.mode not in supported:
                remedy = "drop the replies" if line.mode == "response" else 'give the lines a "response"'
                raise InputError(
                    f"{self.path} line {line.number} needs the mode {line.mode}, and {guard} judges "
                    f"{sorted(supported)}; {remedy}"
                )
        needed = {line.mode for line in self.lines}
        return tuple(mode for mode in ("prompt", "response") if mode in needed)


def read_texts(path: Path) -> Lines:
    """Lines {"text", "response"?, "id"?}. Raises InputError naming the line, never its text."""
    return _read(path, _TEXT)


def read_labelled(path: Path) -> Lines:
    """The same with {"unsafe": bool, "labels": {FIELD: bool}, "category": str}; every line has one of the first two.
    Raises InputError naming the line, never its text.
    """
    return _read(path, _LABELLED)


def _read(path: Path, keys: Collection[str]) -> Lines:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # a path with a NUL
        raise InputError(f"cannot read {str(path)!r}: {error}") from None
    lines = tuple(_lines(path, data, keys))
    if not lines:
        raise InputError(f"{path} holds no lines, expected one JSON object a line with the keys {', '.join(keys)}")
    return Lines(path, hashlib.sha256(data).hexdigest(), lines)


def _lines(path: Path, data: bytes, keys: Collection[str]) -> Iterator[Line]:
    for number, raw in enumerate(data.split(b"\n"), 1):
        if not raw.strip():
            continue
        try:
            yield _line(number, parse(raw, keys), "unsafe" in keys)
        except InputError as error:
            raise InputError(f"{path} line {number}: {error}") from None


def _line(number: int, item: dict[str, Any], labelled: bool) -> Line:
    if "text" not in item:
        raise InputError('the line has no "text"')
    response = item.get("response")
    line = Line(
        number,
        item.get("id"),
        checked(item["text"], "text"),
        None if response is None else checked(response, "response"),
        _expect(item, "unsafe", bool, "true or false"),
        _expect(item, "labels", dict, 'an object like {"hate": true}') or {},
        _expect(item, "category", str, "a string"),
    )
    for name, label in line.labels.items():
        if not isinstance(label, bool):
            raise InputError(f"labels.{name} is {type(label).__name__}, expected true or false")
    if labelled and line.unsafe is None and not line.labels:
        raise InputError('the line has no label; give it "unsafe": true or false')
    return line


def _expect(item: dict[str, Any], key: str, kind: type, expected: str) -> Any:
    value = item.get(key)
    if value is not None and not isinstance(value, kind):
        raise InputError(f"{key} is {type(value).__name__}, expected {expected}")
    return value
