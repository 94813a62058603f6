"""JSON lines, as the commands read and print them."""

import json
import sys
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO, cast

from .errors import InputError


def read_lines(source: str) -> Iterator[bytes]:
    """The lines of a file, or of stdin for "-", less blank ones. Raises InputError where it cannot be read."""
    try:
        with cast(BinaryIO, sys.stdin.buffer if source == "-" else open(source, "rb")) as file:
            yield from (line for line in file if line.strip())
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror}") from None


def parse(line: bytes, keys: Collection[str]) -> dict[str, Any]:
    """The object of a line. Raises InputError for what is none, and for keys other than `keys`; never quotes values."""
    try:
        item = json.loads(line.decode())
        json.dumps([item], allow_nan=False)  # what cannot be written as JSON cannot be echoed as an "id"
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
    # A lone surrogate in an "id" is echoed as it came, escaped, instead of failing to print.
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)
