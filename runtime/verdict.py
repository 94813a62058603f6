"""From scores to a verdict: an argmax restricted to the labels, never text that is parsed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import EngineError
from .manifest import Label, Manifest, Mode, ModeSpec
from .schema import encode


@dataclass(frozen=True)
class Field:
    """What one slot decided. `score` and `margin` as in Verdict."""

    label: str
    score: float
    margin: float


@dataclass(frozen=True)
class Tokens:
    """Tokens of a check, over all windows: taken from the baked prefix, and run."""

    prefix: int
    run: int


@dataclass(frozen=True)
class Milliseconds:
    """Where the time of a check went; `run` is the passes themselves ("pass" in JSON)."""

    tokenize: float
    run: float
    total: float


@dataclass(frozen=True)
class Verdict:
    """The answer of a guard.

    score: probability of unsafe, a softmax over all labels. margin: best safe logit minus best unsafe logit,
    positive where argmax says safe. windows: passes over an over-long text, of which this is the worst.
    truncated: text was left out, as the caller asked. suspicious_literals: pieces of the guard's own prompt
    found in the text; they were judged as text.
    """

    safe: bool
    label: str
    categories: tuple[str, ...]
    score: float
    margin: float
    fields: dict[str, Field]
    mode: Mode
    windows: int
    truncated: bool
    suspicious_literals: tuple[str, ...]
    tokens: Tokens
    ms: Milliseconds

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists, the form that `guardpass check --json` prints."""
        body: dict[str, Any] = encode(self)
        times = body["ms"]
        body["ms"] = {"tokenize": times["tokenize"], "pass": times["run"], "total": times["total"]}
        return body


@dataclass(frozen=True)
class Decision:
    """The outcome of one pass."""

    label: Label
    field: str
    score: float
    margin: float


def decide(manifest: Manifest, mode: ModeSpec, scores: npt.NDArray[np.float32], threshold: float | None) -> Decision:
    """Read the slot's restricted scores [1, 1, V'].

    Without a threshold the argmax decides; with one the text is unsafe from that score on, and the label is
    the best of that side. Raises EngineError for scores that are not finite: they must not pass for safe.
    """
    (slot,) = mode.tree.slots
    logits = scores[0, 0].astype(np.float64)
    if not np.isfinite(logits).all():
        raise EngineError(f"the engine gave scores that are not finite ({logits.tolist()}); no verdict is possible")
    labels = [manifest.labels[index] for index in slot.labels]
    logits = logits[list(slot.labels)]
    unsafe = np.array([label.unsafe for label in labels])
    weights = np.exp(logits - logits.max())
    score = float(weights[unsafe].sum() / weights.sum())
    margin = float(logits[~unsafe].max() - logits[unsafe].max())
    # At a tie the verdict is unsafe: a guard that cannot tell must not let pass.
    flagged = margin <= 0 if threshold is None else score >= threshold
    best = int(np.argmax(np.where(unsafe == flagged, logits, -np.inf)))
    return Decision(labels[best], slot.field, score, margin)
