"""A request that can be judged: what a caller passed, checked."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, TypedDict, get_args

from .decide import ScoreOptions
from .errors import InputError
from .format.manifest import Mode, Role

Normalize = Literal["on", "off"]
Texts = dict[Role, str]


class CheckOptions(TypedDict, total=False):
    """The options of `Guard.check` that say what is judged and how scores are read."""

    policies: Iterable[str] | None
    threshold: float | Mapping[str, float] | None
    strict: bool
    temperature: float
    alpha: float
    normalize: Normalize | None


@dataclass(frozen=True)
class Request:
    """What is judged, in which forms, and how its scores are read."""

    mode: Mode
    forms: tuple[Texts, ...]  # the texts as they stand; then, where that differs, their plain form
    policies: tuple[str, ...]
    options: ScoreOptions
    tree: int  # tokens

    @property
    def form_tokens(self) -> tuple[int, ...]:
        """About how many tokens each form runs: of text one for three bytes, which most languages stay below."""
        return tuple(sum(len(text.encode()) for text in form.values()) // 3 + self.tree for form in self.forms)

    @property
    def tokens(self) -> int:
        """About how many tokens all forms run."""
        return sum(self.form_tokens)


def mode_of(response: str | None) -> Mode:
    """A reply is judged where there is one."""
    return "prompt" if response is None else "response"


def pair_of(item: str | tuple[str, str | None]) -> tuple[str, str | None]:
    """Text and reply of an item of several. Raises InputError."""
    pair = item if isinstance(item, tuple) else (item, None)
    if len(pair) != 2:
        raise InputError(f"an item has {len(pair)} parts, expected a text or a pair (text, response)")
    return pair


def check_names(options: Mapping[str, Any]) -> None:
    """Raises InputError for an option that does not exist, with the one that was meant."""
    known = CheckOptions.__annotations__
    for name in options:
        if name not in known:
            meant = get_close_matches(name, known, 1)
            hint = f"; {meant[0]!r} is the nearest" if meant else ""
            raise InputError(f"there is no option {name!r}, expected some of {', '.join(known)}{hint}")


def check_normalize(value: object) -> None:
    """Raises InputError for what is no Normalize."""
    if value not in get_args(Normalize):
        raise InputError(f"normalize is {value!r}, expected one of: {', '.join(get_args(Normalize))}")
