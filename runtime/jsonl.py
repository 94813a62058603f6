"""Reads and writes JSON lines for the commands."""

import json
import sys
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO, cast

from .errors import InputError


def read_lines(source: str) -> Iterator[bytes]:
    """The non-blank lines of a file, or of stdin for "-". Raises InputError if the file cannot be read."""
    try:
        with cast(BinaryIO, sys.stdin.buffer if source == "-" else open(source, "rb")) as file:
            yield from (line for line in file if line.strip())
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror}") from None


def parse(line: bytes, keys: Collection[str]) -> dict[str, Any]:
    """The JSON object of a line. Raises InputError for other JSON and for unknown keys; it quotes no value."""
    try:
        item = json.loads(line.decode())
        json.dumps([item], allow_nan=False)  # NaN cannot be echoed as an "id"
    except (ValueError, RecursionError) as error:
        raise InputError(f"the line is not JSON in UTF-8: {error}") from None
    if not isinstance(item, dict):
        raise InputError(f"the line holds {type(item).__name__}, expected an object")
    unknown = item.keys() - set(keys)
    if unknown:
        raise InputError(f"the line has unknown keys {sorted(unknown)}, expected some of {', '.join(keys)}")
    return item


def dump(value: Any) -> str:
    """One line of JSON."""
    # A lone surrogate in an "id" cannot be printed, so it is echoed as an escape.
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)
