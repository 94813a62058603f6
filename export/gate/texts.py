"""Texts that an export is tried on: the built-in ones, or the caller's."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from guardpass.errors import InputError
from guardpass.jsonl import parse
from guardpass.tokenizer import checked

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
        both = self.text if self.response is None else f"{self.text}\0{self.response}"
        return hashlib.sha256(both.encode()).hexdigest()


@dataclass(frozen=True)
class Texts:
    """The texts of one file."""

    items: tuple[Text, ...]
    source: str  # "built-in", or the file's name
    sha256: str  # of the file
    built_in: bool


def built_in(name: str) -> Texts:
    """`gate`, or `calibration`, which has other texts: what corrects the weights must not also judge them."""
    return _parsed((_BUILT_IN / f"{name}.jsonl").read_bytes(), "built-in", built_in=True)


def read_texts(path: Path) -> Texts:
    """JSONL of {"text", "response"?, "id"?}. Raises InputError naming the line that is wrong, never quoting it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    # Never the name of the built-in texts, nor one that JSON cannot hold.
    name = path.name.encode(errors="replace").decode()
    return _parsed(data, f"./{name}" if name == "built-in" else name, built_in=False)


def _parsed(data: bytes, source: str, *, built_in: bool) -> Texts:
    lines = [(number, line) for number, line in enumerate(data.split(b"\n"), start=1) if line.strip()]
    items = tuple(_text(line, source, number) for number, line in lines)
    return Texts(items, source, hashlib.sha256(data).hexdigest(), built_in)


def _text(line: bytes, source: str, number: int) -> Text:
    try:
        item = parse(line, ("text", "response", "id"))
        if "text" not in item:
            raise InputError('the line has no "text"')
        response = None if item.get("response") is None else checked(item["response"], "response")
        return Text(checked(item["text"], "text"), response, number)
    except InputError as error:
        raise InputError(f"{source} line {number}: {error}") from None
