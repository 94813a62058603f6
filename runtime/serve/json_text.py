"""The text that a JSON value means: what a tool is called with, and how it is described."""

import json
import re
from collections.abc import Collection

_ESCAPE = re.compile(
    r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|\\u(?![dD][89a-fA-F])([0-9a-fA-F]{4})"
)
_WORD = re.compile(r"[!-~]{0,64}")  # ASCII, no space


class _Pairs(list[tuple[str, object]]):
    """An object's names and values: all of them, where a name stands twice."""


def text_in(value: object, without: Collection[str] = ()) -> str:
    """A line for every name and every value, in their order, without JSON's escapes and punctuation.

    A string that is JSON itself (a call's arguments are, and may hold more of it) stands for what is in it; in one that
    looks like JSON and is none, and in any other, \\uXXXX stands for its character. without: names that are left out,
    and their values too where they are true, false or words without spaces.
    """
    lines: list[str] = []
    waiting: list[tuple[str, object]] = [("", value)]
    while waiting:
        name, found = waiting.pop()
        if isinstance(found, str):
            found = _decoded(found)
        if name in without:
            if _plain(found):
                continue
            name = ""
        if isinstance(found, dict | list):
            lines.append(_unescaped(name))
            pairs = found.items() if isinstance(found, dict) else found
            inner = list(pairs) if isinstance(found, dict | _Pairs) else [("", each) for each in found]
            waiting += reversed(inner)
        else:
            shown = found if isinstance(found, str) else "" if found is None else json.dumps(found)
            lines.append(": ".join(filter(None, (_unescaped(name), shown))))
    # A lone surrogate stays the escape that it was.
    return "\n".join(filter(None, lines)).encode(errors="backslashreplace").decode()


def _decoded(text: str) -> object:
    """What a string of JSON holds; any other string with its escapes decoded. Numbers stay as they are written."""
    ends = text.strip()
    if ends[:1] + ends[-1:] in ("{}", "[]", '""'):
        try:
            found = json.loads(text, object_pairs_hook=_Pairs, parse_int=str, parse_float=str, parse_constant=str)
        except (ValueError, RecursionError):
            return _unescaped(text)
        return _decoded(found) if isinstance(found, str) else found  # each round takes at least its quotes off
    return _unescaped(text)


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(_character, text)


def _character(found: re.Match[str]) -> str:
    high, low, other = found.groups()
    if other is not None:
        return chr(int(other, 16))
    return chr(0x10000 + ((int(high, 16) - 0xD800) << 10) + int(low, 16) - 0xDC00)


def _plain(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(each, str) and _WORD.fullmatch(each) for each in value)
    return isinstance(value, bool) or (isinstance(value, str) and _WORD.fullmatch(value) is not None)
