"""Takes values of the right type from a request's JSON."""

from collections.abc import Collection, Mapping
from typing import Any

from ..decide import ScoreOptions
from ..errors import InputError
from ..request import CheckOptions, check_normalize
from .left_out import quoted

# How to judge, in /v1/check and LiteLLM's parameters; `guard` and `panel` choose the judge.
OPTIONS = ("policies", "threshold", "strict", "temperature", "alpha", "normalize", "priority")
LACKS = "POST /v1/check takes them, and LiteLLM's additional_provider_specific_params"


class JudgingOptions(CheckOptions, total=False):
    """The OPTIONS, as guards and panels take them."""

    priority: int


def text_of(body: Mapping[str, Any], key: str) -> str:
    """A required string."""
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


def only(body: Mapping[str, Any], keys: Collection[str], where: str = "the body") -> None:
    """Raises InputError for unknown keys, so that a misspelt option is never ignored."""
    unknown = [key for key in body if key not in keys]
    if unknown:
        raise InputError(f"{where} has the unknown keys {quoted(unknown)}, expected some of {', '.join(keys)}")


def without(body: Mapping[str, Any], keys: Collection[str], instead: str) -> None:
    """Raises InputError for options that this path does not use; instead: a clause that says which path does."""
    unused = [key for key in keys if body.get(key) is not None]
    if unused:
        raise InputError(f"the body has {', '.join(unused)}, which this path does not take; {instead}")


def judging(body: Mapping[str, Any]) -> JudgingOptions:
    """The OPTIONS, each of its type and in its range. Raises InputError."""
    options: JudgingOptions = {
        "policies": optional(body, "policies", list),
        "threshold": optional(body, "threshold", (int, float, dict)),
        "strict": optional(body, "strict", bool, True),
        "temperature": optional(body, "temperature", (int, float), 1.0),
        "alpha": optional(body, "alpha", (int, float), 0.0),
        "normalize": optional(body, "normalize", str),
        "priority": max(-100, min(optional(body, "priority", int, 0), 100)),
    }
    policies, threshold = options["policies"], options["threshold"]
    if policies is not None and not (policies and all(isinstance(policy, str) for policy in policies)):
        raise InputError("policies: expected names")
    scores = ScoreOptions(threshold, options["strict"], options["temperature"], options["alpha"])
    scores.check(threshold if isinstance(threshold, dict) else ())  # the guard checks that it has these fields
    if options["normalize"] is not None:
        check_normalize(options["normalize"])
    return options


def _kind(value: object) -> str:
    return "missing" if value is None else type(value).__name__
