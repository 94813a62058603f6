"""The operating point: the target of a threshold, and the search for it among the scores of labelled texts."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from guardpass.errors import InputError

Kind = Literal["f1", "precision", "recall", "fpr"]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
_FORMS = "f1, precision=0.98, recall=0.95 or fpr=0.01"


@dataclass(frozen=True)
class Target:
    """f1: maximal. precision, recall: at least `value`. fpr, the share of safe texts flagged: at most `value`."""

    kind: Kind = "f1"
    value: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Target":
        """`f1`, or `precision=0.98` and the like. Raises InputError."""
        kind, _, number = text.partition("=")
        try:
            value = float(number) if number else None
        except ValueError:
            value = float("nan")
        for name in get_args(Kind):
            if kind == name and (value is None) == (kind == "f1") and (value is None or _possible(kind, value)):
                return cls(name, value)
        raise InputError(
            f"--at is {text!r}, expected {_FORMS}; precision and recall above 0 and at most 1, fpr from 0 to below 1"
        )

    def __str__(self) -> str:
        return self.kind if self.value is None else f"{self.kind}={self.value!r}"

    def choose(self, truth: Bools, scores: Floats, where: str) -> float:
        """The threshold for texts with labels [N] and scores [N]; a text is flagged from the threshold on.

        The threshold is the score of one of the texts, and flags at least one unsafe text. For precision and fpr it is
        the smallest that reaches the target, so that recall is greatest; for recall the largest; for f1 the smallest of
        the best. A score below 0 belongs to a text that no threshold flags. Both labels occur. Raises InputError where
        no threshold reaches the target; `where` names the texts.
        """
        unsafe, safe = np.sort(scores[truth]), np.sort(scores[~truth])
        candidates = np.unique(scores[scores >= 0])
        hits = unsafe.size - np.searchsorted(unsafe, candidates)
        candidates, hits = candidates[hits > 0], hits[hits > 0]
        if not candidates.size:
            raise InputError(f"{where}: the guard gives no unsafe text a score; label texts that it answers on")
        alarms = safe.size - np.searchsorted(safe, candidates)
        if self.kind == "f1":
            return float(candidates[np.argmax(2 * hits / (hits + alarms + unsafe.size))])
        measured = {
            "precision": hits / (hits + alarms),
            "recall": hits / unsafe.size,
            "fpr": alarms / safe.size,
        }[self.kind]
        value = self.value or 0.0
        reached = measured <= value if self.kind == "fpr" else measured >= value
        if not reached.any():
            best = np.argmin(measured) if self.kind == "fpr" else np.argmax(measured)
            raise InputError(
                f"{where}: no threshold reaches {self}; the nearest is {self.kind} {measured[best]:.4f} "
                f"at {candidates[best]:.4f}, with recall {hits[best] / unsafe.size:.4f}; ask for less, or label more "
                "texts"
            )
        chosen = np.flatnonzero(reached)[-1 if self.kind == "recall" else 0]
        return float(candidates[chosen])


def _possible(kind: str, value: float) -> bool:
    return 0 <= value < 1 if kind == "fpr" else 0 < value <= 1
