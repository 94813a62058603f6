"""What a comparison of guards says."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Side:
    """What one guard said. margin: positive where argmax says safe, whatever a threshold makes of it."""

    safe: bool
    field: str
    label: str
    score: float
    margin: float


@dataclass(frozen=True)
class Flip:
    """A text of two verdicts, named by its line and, where it has one, its id."""

    line: int
    id: Any
    first: Side
    second: Side


@dataclass(frozen=True)
class Pair:
    """Two guards, by their places. Score changes are absolute, of the verdict's score."""

    first: int
    second: int
    agreement: float
    mean_score_change: float
    worst_score_change: float
    flips: tuple[Flip, ...]


@dataclass(frozen=True)
class Judge:
    """One of the guards, and the thresholds it judged by, by mode and field; what has none went by argmax."""

    guard: str
    thresholds: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Comparison:
    """agreement: share of the texts that two guards call the same, safe or unsafe, [guards][guards]."""

    guards: tuple[Judge, ...]
    texts: int
    sha256: str  # of the file of texts
    agreement: tuple[tuple[float, ...], ...]
    pairs: tuple[Pair, ...]
    plots: tuple[str, ...]


def letter(place: int) -> str:
    """A short name of a guard: A, B, ... and, after 26 of them, their numbers."""
    return chr(ord("A") + place) if place < 26 else str(place + 1)
