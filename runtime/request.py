"""A request: the checked arguments of a call."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, TypedDict, get_args

from .decide import ScoreOptions
from .errors import InputError
from .format.manifest import Mode, Role
from .on_error import OnError

Normalize = Literal["on", "off"]
Texts = dict[Role, str]


class CheckOptions(TypedDict, total=False):
    """The options of `Guard.check` that select policies and forms, and set how scores are read."""

    policies: Iterable[str] | None
    threshold: float | Mapping[str, float] | None
    strict: bool
    temperature: float
    alpha: float
    normalize: Normalize | None


class SubmitOptions(CheckOptions, total=False):
    """The options of `Guard.submit`: those of `Guard.check`, and the timing of the request."""

    timeout: float | None
    priority: int
    on_error: OnError


@dataclass(frozen=True)
class Request:
    """The mode, the forms of the text, the policies to judge, and how to read the scores."""

    mode: Mode
    forms: tuple[Texts, ...]  # the texts as they stand; then their plain form, where it differs
    policies: tuple[str, ...]
    options: ScoreOptions
    tree: int  # tokens of the whole tree

    @property
    def form_tokens(self) -> tuple[int, ...]:
        """The estimated tokens of each form: one for three bytes of text, an upper bound in most languages."""
        return tuple(sum(len(text.encode()) for text in form.values()) // 3 + self.tree for form in self.forms)

    @property
    def tokens(self) -> int:
        """The estimated tokens of all forms."""
        return sum(self.form_tokens)


def mode_of(response: str | None) -> Mode:
    """Mode response where there is a reply, else mode prompt."""
    return "prompt" if response is None else "response"


def pair_of(item: str | tuple[str, str | None]) -> tuple[str, str | None]:
    """The text and the reply of one item. Raises InputError."""
    pair = item if isinstance(item, tuple) else (item, None)
    if len(pair) != 2:
        raise InputError(f"an item has {len(pair)} parts, expected a text or a pair (text, response)")
    return pair


def check_names(options: Mapping[str, Any]) -> None:
    """Raises InputError for an unknown option, and suggests the nearest name."""
    names = CheckOptions.__annotations__
    for name in options:
        if name not in names:
            matches = get_close_matches(name, names, 1)
            hint = f"; {matches[0]!r} is the nearest" if matches else ""
            raise InputError(f"there is no option {name!r}, expected some of {', '.join(names)}{hint}")


def check_normalize(value: object) -> None:
    """Raises InputError unless the value is a Normalize."""
    if value not in get_args(Normalize):
        raise InputError(f"normalize is {value!r}, expected one of: {', '.join(get_args(Normalize))}")
