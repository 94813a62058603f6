"""The text that a JSON value means: a tool's arguments, or its description."""

import json
import re
from collections.abc import Collection

_ESCAPE = re.compile(
    r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|\\u(?![dD][89a-fA-F])([0-9a-fA-F]{4})"
)
_WORD = re.compile(r"[!-~]{0,64}")  # ASCII, no space


class _Pairs(list[tuple[str, object]]):
    """An object's names and values, duplicate names included."""


def text_in(value: object, without: Collection[str] = ()) -> str:
    """A line for every name and every value, in their order, without JSON's escapes and punctuation.

    A string of JSON counts as the JSON value; a call's arguments are such a string, and may hold more of them. In every
    other string, \\uXXXX counts as its character. without: names to leave out, together with values that are true,
    false or words without spaces.
    """
    lines: list[str] = []
    waiting: list[tuple[str, object]] = [("", value)]
    while waiting:
        name, item = waiting.pop()
        if isinstance(item, str):
            item = _decoded(item)
        if name in without:
            if _plain(item):
                continue
            name = ""
        if isinstance(item, dict | list):
            lines.append(_unescaped(name))
            pairs = item.items() if isinstance(item, dict) else item
            inner = list(pairs) if isinstance(item, dict | _Pairs) else [("", element) for element in item]
            waiting += reversed(inner)
        else:
            shown = item if isinstance(item, str) else "" if item is None else json.dumps(item)
            lines.append(": ".join(filter(None, (_unescaped(name), shown))))
    # A lone surrogate stays an escape.
    return "\n".join(filter(None, lines)).encode(errors="backslashreplace").decode()


def _decoded(text: str) -> object:
    """The value of a string of JSON; any other string with its escapes decoded. Numbers keep their spelling."""
    ends = text.strip()
    if ends[:1] + ends[-1:] in ("{}", "[]", '""'):
        try:
            value = json.loads(text, object_pairs_hook=_Pairs, parse_int=str, parse_float=str, parse_constant=str)
        except (ValueError, RecursionError):
            return _unescaped(text)
        return _decoded(value) if isinstance(value, str) else value  # each round removes at least the quotes
    return _unescaped(text)


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(_character, text)


def _character(escape: re.Match[str]) -> str:
    high, low, other = escape.groups()
    if other is not None:
        return chr(int(other, 16))
    return chr(0x10000 + ((int(high, 16) - 0xD800) << 10) + int(low, 16) - 0xDC00)


def _plain(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(element, str) and _WORD.fullmatch(element) for element in value)
    return isinstance(value, bool) or (isinstance(value, str) and _WORD.fullmatch(value) is not None)
