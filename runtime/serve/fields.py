"""Taking values of the right type out of a request's JSON."""

from collections.abc import Collection, Mapping
from typing import Any

from ..errors import InputError


def text_of(body: Mapping[str, Any], key: str) -> str:
    """A string that has to be there."""
    value = body.get(key)
    if not isinstance(value, str):
        raise InputError(f"{key} is {_kind(value)}, expected a string")
    return value


def optional(body: Mapping[str, Any], key: str, kinds: type | tuple[type, ...], default: Any = None) -> Any:
    """A value of one of these types, or the default where the key is absent or null."""
    value = body.get(key)
    if value is None:
        return default
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        names = [kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,))]
        raise InputError(f"{key} is {_kind(value)}, expected {' or '.join(names)}")
    return value


def only(body: Mapping[str, Any], keys: Collection[str]) -> None:
    """Raises InputError for keys that are not known, so that a slip of the pen does not change what is judged."""
    unknown = len(body.keys() - set(keys))
    if unknown:
        raise InputError(f"the body has {unknown} unknown keys, expected some of {', '.join(keys)}")


def content_of(value: object, where: str) -> str:
    """OpenAI's content: a string, or parts of text."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise InputError(f"{where} is {_kind(value)}, expected a string, or a list of parts of text")
    texts = []
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise InputError(f'{where} has a part that is not {{"type": "text", "text": ...}}; guards judge text alone')
        texts.append(part["text"])
    return "\n".join(texts)


def _kind(value: object) -> str:
    return "missing" if value is None else type(value).__name__
