"""A request that can be judged."""

from dataclasses import dataclass

from .decide import Reading
from .errors import InputError
from .manifest import Mode, Role


@dataclass(frozen=True)
class Question:
    """A request that can be judged: what `check` was given, checked."""

    mode: Mode
    texts: dict[Role, str]
    policies: tuple[str, ...]
    reading: Reading
    tree: int  # tokens

    @property
    def tokens(self) -> int:
        """About how many tokens are to run: of text one for three bytes, which most languages stay below."""
        return sum(len(text.encode()) for text in self.texts.values()) // 3 + self.tree


def mode_of(response: str | None) -> Mode:
    """A reply is judged where there is one."""
    return "prompt" if response is None else "response"


def pair_of(item: str | tuple[str, str | None]) -> tuple[str, str | None]:
    """Text and reply of an item of several. Raises InputError."""
    pair = item if isinstance(item, tuple) else (item, None)
    if len(pair) != 2:
        raise InputError(f"an item has {len(pair)} parts, expected a text or a pair (text, response)")
    return pair
