"""What a request holds and no guard is given: keys and turns that are not judged, and what is no text."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_LISTED = 100
_LONGEST = 64  # characters of a client's own word


def quoted(words: Iterable[object], most: int = 5) -> str:
    """A client's own words, escaped, and bounded in length and number."""
    every = list(words)
    shown = ", ".join(json.dumps(str(word)[:_LONGEST]) for word in every[:most])
    return shown + (f" and {len(every) - most} more" if len(every) > most else "")


@dataclass(frozen=True)
class NotText:
    """A piece that guards cannot judge. kind: for the log and metrics, one of ours; type: the client's word for it."""

    place: str
    kind: str
    type: str


@dataclass
class LeftOut:
    """Collected while a request is read; what the endpoint does about it is the endpoint's."""

    places: list[str] = field(default_factory=list)
    not_text: list[NotText] = field(default_factory=list)

    def ignore(self, place: str) -> None:
        """Something that has no part in the verdict."""
        self.places.append(place)

    def rest(self, value: Mapping[str, Any], used: Iterable[str], place: str = "") -> None:
        """The keys of an object that are not used; one that is null or empty says nothing."""
        known = set(used)
        for key, content in value.items():
            if key not in known and content not in (None, "", [], {}):
                self.ignore(f"{place}.{key[:_LONGEST]}" if place else key[:_LONGEST])

    def cannot(self, place: str, kind: str, type: object = None) -> None:
        """Something that is no text."""
        self.not_text.append(NotText(place, kind, type if isinstance(type, str) else kind))

    def ignored(self) -> list[str]:
        """All of it by its place, for the answer."""
        every = self.places + [piece.place for piece in self.not_text]
        more = len(every) - _LISTED
        return every[:_LISTED] + ([f"and {more} more"] if more > 0 else [])

    def why(self) -> str:
        """What is no text, as the reason of a refusal."""
        first = self.not_text[0]
        more = f" and {len(self.not_text) - 1} more" if len(self.not_text) > 1 else ""
        return f"{first.place} ({quoted([first.type])}){more} cannot be judged; guards judge text alone"
