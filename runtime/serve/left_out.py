"""Collects the parts of a request that no guard judges: keys, turns, and content that is not text."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_LISTED = 100
_LONGEST = 64  # characters of a client's word


def quoted(words: Iterable[object], most: int = 5) -> str:
    """A client's words, escaped, and bounded in length and number."""
    every = list(words)
    shown = ", ".join(json.dumps(str(word)[:_LONGEST]) for word in every[:most])
    return shown + (f" and {len(every) - most} more" if len(every) > most else "")


@dataclass(frozen=True)
class NotText:
    """Content that guards cannot judge. kind: our word, for log and metrics; type: the client's word."""

    place: str
    kind: str
    type: str


@dataclass
class LeftOut:
    """Filled while a request is read; the endpoint decides what to do about it."""

    places: list[str] = field(default_factory=list)
    not_text: list[NotText] = field(default_factory=list)

    def ignore(self, place: str) -> None:
        """Add a place that the verdict does not depend on."""
        self.places.append(place)

    def rest(self, value: Mapping[str, Any], used: Iterable[str], place: str = "") -> None:
        """Add the unused keys of an object, except those that are null or empty."""
        known = set(used)
        for key, content in value.items():
            if key not in known and content not in (None, "", [], {}):
                self.ignore(f"{place}.{key[:_LONGEST]}" if place else key[:_LONGEST])

    def cannot(self, place: str, kind: str, type: object = None) -> None:
        """Add content that is not text."""
        self.not_text.append(NotText(place, kind, type if isinstance(type, str) else kind))

    def ignored(self) -> list[str]:
        """All places, for the answer."""
        every = self.places + [piece.place for piece in self.not_text]
        more = len(every) - _LISTED
        return every[:_LISTED] + ([f"and {more} more"] if more > 0 else [])

    def why(self) -> str:
        """The reason to refuse content that is not text."""
        first = self.not_text[0]
        more = f" and {len(self.not_text) - 1} more" if len(self.not_text) > 1 else ""
        return f"{first.place} ({quoted([first.type])}){more} cannot be judged; guards judge text alone"
