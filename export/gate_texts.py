"""Texts that an export is tried on: the built-in ones, or the caller's."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guardpass.content import checked
from guardpass.errors import InputError

_BUILT_IN = Path(__file__).parent / "texts"


@dataclass(frozen=True)
class Text:
    """A message, and maybe the reply to it."""

    text: str
    response: str | None
    line: int

    @property
    def sha256(self) -> str:
        """What a report says of it in place of itself: the hash of text, or of text, NUL and response."""
        return hashlib.sha256("\0".join(filter(None, (self.text, self.response))).encode()).hexdigest()


@dataclass(frozen=True)
class Texts:
    """The texts of one file."""

    items: tuple[Text, ...]
    source: str  # "built-in", or the file's name
    sha256: str  # of the file


def built_in(name: str) -> Texts:
    """`gate`, or `calibration`, which has other texts: what corrects the weights must not also judge them."""
    return _parsed((_BUILT_IN / f"{name}.jsonl").read_bytes(), "built-in")


def read_texts(path: Path) -> Texts:
    """JSONL of {"text", "response"?}; other keys are left alone. Raises InputError naming the line that is wrong."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    return _parsed(data, path.name)


def _parsed(data: bytes, source: str) -> Texts:
    lines = [(number, line) for number, line in enumerate(data.splitlines(), start=1) if line.strip()]
    items = tuple(_text(line, f"{source}, line {number}", number) for number, line in lines)
    return Texts(items, source, hashlib.sha256(data).hexdigest())


def _text(line: bytes, where: str, number: int) -> Text:
    try:
        value: Any = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON in UTF-8 ({error})") from None
    if not isinstance(value, dict) or "text" not in value:
        raise InputError(f'{where}: expected an object with "text"')
    text, response = value["text"], value.get("response")
    return Text(
        checked(text, f"{where}: text"), None if response is None else checked(response, f"{where}: response"), number
    )
