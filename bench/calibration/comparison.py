"""The result of a comparison of guards, as `--json` prints it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Side:
    """The verdict of one guard. margin is positive where argmax says safe, whatever the threshold says."""

    safe: bool
    field: str
    label: str
    score: float
    margin: float


@dataclass(frozen=True)
class Flip:
    """A text on which two guards differ, named by its line and its id, if any."""

    line: int
    id: Any
    first: Side
    second: Side


@dataclass(frozen=True)
class Pair:
    """Two guards, by their places. Score changes are absolute changes of the verdict's score."""

    first: int
    second: int
    agreement: float
    mean_score_change: float
    worst_score_change: float
    flips: tuple[Flip, ...]


@dataclass(frozen=True)
class ComparedGuard:
    """One of the guards, and its thresholds by mode and field; fields without one go by argmax."""

    guard: str
    thresholds: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Comparison:
    """agreement [guards][guards]: share of the texts that both guards call safe, or both unsafe."""

    guards: tuple[ComparedGuard, ...]
    texts: int
    sha256: str  # of the file of texts
    agreement: tuple[tuple[float, ...], ...]
    pairs: tuple[Pair, ...]
    plots: tuple[str, ...]


def letter(place: int) -> str:
    """A short name of a guard: A, B, ..., Z, then 27, 28, ..."""
    return chr(ord("A") + place) if place < 26 else str(place + 1)
