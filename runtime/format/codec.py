"""Strict decoding of JSON into frozen dataclasses: every key known, every type exact, every path named."""

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")


def decode(cls: type[T], value: object, path: str = "") -> T:
    """Build `cls` from parsed JSON: a dataclass of int, float, str, bool, Literal, tuples, dicts, unions with None and
    dataclasses.

    Raises ValueError with the path, the expected type and the actual one.
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
    # JSON has one type of number, and tools may rewrite 1.0 as 1. Beyond 2**53 a float is not exact.
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 1 << 53:
        value = float(value)
    # In Python bool is a subclass of int.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{path}: expected {kind.__name__}, found {type(value).__name__}")
    return value


def encode(value: object) -> Any:
    """The inverse of `decode`: dataclasses become dicts, and tuples become lists."""
    if is_dataclass(value):
        return {f.name: encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    return value
