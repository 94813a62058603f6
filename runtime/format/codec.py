"""Strict decoding of JSON into frozen dataclasses: every key known, every type exact, every path named."""

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")


def decode(cls: type[T], value: object, path: str = "") -> T:
    """Build `cls` (a dataclass of int, float, str, bool, tuples, dicts, unions with None and dataclasses)
    from parsed JSON.

    Raises ValueError naming the path, what was expected and what was found.
    """
    result: T = _decode(cls, value, path or "(top)")
    return result


def _decode(kind: Any, value: object, path: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, value, path)
    if origin is tuple:
        items = _expect(list, value, path)
        return tuple(_decode(args[0], item, f"{path}[{i}]") for i, item in enumerate(items))
    if origin is dict:
        mapping = _expect(dict, value, path)
        return {key: _decode(args[1], item, f"{path}.{key}") for key, item in mapping.items()}
    if origin is types.UnionType or origin is typing.Union:
        return None if value is None else _decode(args[0], value, path)
    if origin is typing.Literal:
        if value not in args:
            raise ValueError(f"{path}: expected one of {args}, found {value!r}")
        return value
    return _expect(kind, value, path)


def _dataclass(cls: Any, value: object, path: str) -> Any:
    mapping = _expect(dict, value, path)
    hints = typing.get_type_hints(cls)
    required = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
    missing, unknown = required - mapping.keys(), mapping.keys() - hints.keys()
    if missing or unknown:
        raise ValueError(f"{path}: missing keys {sorted(missing)}, unknown keys {sorted(unknown)}")
    return cls(**{key: _decode(hints[key], item, f"{path}.{key}") for key, item in mapping.items()})


def _expect(kind: type[T], value: object, path: str) -> T:
    # JSON has one kind of number, and tools that rewrite it print 1.0 as 1; beyond 2**53 the two differ.
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 1 << 53:
        value = float(value)
    # bool is an int to Python; to a manifest it is not.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{path}: expected {kind.__name__}, found {type(value).__name__}")
    return value


def encode(value: object) -> Any:
    """The JSON form of what `decode` reads: dataclasses become dicts, tuples lists."""
    if is_dataclass(value):
        return {f.name: encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    return value
