"""From scores to a verdict: walks down the tree, each slot's argmax picking the next; never text that is parsed."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import BadScores, InputError
from .format.manifest import Label, Manifest, ModeSpec, Tree
from .format.tree import UNSAFE, below, severities
from .openai_scores import OpenAIScores
from .verdict import Field, Verdict

Logits = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ScoreOptions:
    """How scores are read.

    threshold: unsafe from this score on, instead of by argmax; of every deciding field, or of fields by name.
    strict: controversial answers count as unsafe. temperature, alpha: of the score, as the ShieldGemma paper has
    them (arXiv 2407.21772): (exp(LL(yes)/T) + a) / (exp(LL(yes)/T) + exp(LL(no)/T) + 2a); LL is normalized over the
    slot's own tokens, as no others are scored.
    """

    threshold: float | Mapping[str, float] | None = None
    strict: bool = True
    temperature: float = 1.0
    alpha: float = 0.0

    def check(self, fields: Collection[str]) -> None:
        """Raises InputError for values out of range, or a threshold of a field there is not."""
        several = isinstance(self.threshold, Mapping)
        thresholds = self.threshold if isinstance(self.threshold, Mapping) else {"": self.threshold}
        for field, value in thresholds.items():
            where = f"threshold of {field}" if several else "threshold"
            if several and field not in fields:
                raise InputError(
                    f"{where}: there is no such field, or no answer of it is unsafe; expected some of {sorted(fields)}"
                )
            if (value is not None or several) and not _between(value, 0, 1):
                raise InputError(f"{where} is {value!r}, expected a probability from 0 to 1")
        if not isinstance(self.strict, bool):
            raise InputError(f"strict is {self.strict!r}, expected True or False")
        if not _between(self.temperature, 1e-3, 1e3):
            raise InputError(f"temperature is {self.temperature!r}, expected a number from 0.001 to 1000")
        if not _between(self.alpha, 0, 1e6):
            raise InputError(f"alpha is {self.alpha!r}, expected a number from 0 to 1000000")

    def bound(self, field: str, decides: bool) -> float | None:
        """The threshold that holds for a field."""
        if isinstance(self.threshold, Mapping):
            return self.threshold.get(field)
        return self.threshold if decides else None


@dataclass(frozen=True)
class Outcome:
    """What one walk came to. `label`, `score`, `margin` are those of its worst deciding `field`."""

    flagged: bool
    field: str
    label: Label
    score: float
    margin: float
    categories: tuple[str, ...]
    fields: dict[str, Field | None]
    openai_scores: dict[str, float]

    def severity(self) -> tuple[bool, float]:
        """Greater is worse."""
        return self.flagged, self.score


@dataclass(frozen=True)
class _Answer:
    """A field, decided, and the slot that comes next."""

    slot: int
    field: str
    label: Label
    flagged: bool
    score: float
    margin: float
    next: int | None


class Decider:
    """Reads the scores of one tree."""

    def __init__(self, manifest: Manifest, mode: ModeSpec, tree: Tree) -> None:
        self._labels, self._decides, self._tree = manifest.labels, frozenset(mode.decides), tree
        self._severities = severities(manifest.labels, tree.slots)
        self._openai = OpenAIScores(manifest.labels, self._decides, tree)
        self._columns = [[choice.column for choice in slot.choices] for slot in tree.slots]
        self._below = {
            root: tuple(dict.fromkeys(tree.slots[slot].field for slot in below(tree, root))) for root in tree.roots
        }

    def columns(self) -> Iterator[tuple[int, list[int]]]:
        """Each slot, and the columns of the scores that it reads."""
        return iter(enumerate(self._columns))

    def decide(self, scores: npt.NDArray[np.float32], options: ScoreOptions) -> tuple[Outcome, ...]:
        """Scores [S, V'] to one outcome for each root.

        Raises BadScores for scores that are not finite: they must not pass for safe.
        """
        logits = [scores[slot, columns].astype(np.float64) for slot, columns in enumerate(self._columns)]
        for slot, row in enumerate(logits):
            if not np.isfinite(row).all():
                raise BadScores(
                    f"the engine gave scores of {self._tree.slots[slot].field} that are not finite "
                    f"({row.tolist()}); no verdict is possible"
                )
        return tuple(self._walk(root, logits, options) for root in self._tree.roots)

    def _walk(self, root: int, logits: list[Logits], options: ScoreOptions) -> Outcome:
        answers: list[_Answer] = []
        slot: int | None = root
        while slot is not None:
            answers.append(self._answer(slot, logits, options))
            slot = answers[-1].next
        worst = max((answer for answer in answers if answer.field in self._decides), key=lambda a: (a.flagged, a.score))
        fields: dict[str, Field | None] = dict.fromkeys(self._below[root])
        fields |= {a.field: Field(a.label.name, a.score, a.margin, self._shares(a.slot, logits)) for a in answers}
        categories = (a.label.category for a in answers if a.label.category)
        return Outcome(
            flagged=worst.flagged,
            field=worst.field,
            label=worst.label,
            score=worst.score,
            margin=worst.margin,
            categories=tuple(dict.fromkeys(categories)) if worst.flagged else (),
            fields=fields,
            openai_scores=self._openai.of(root, logits, options.strict),
        )

    def _answer(self, slot: int, logits: list[Logits], options: ScoreOptions) -> _Answer:
        """Decide the field of `slot`, over more than one slot where its labels begin alike."""
        first, field, row = slot, self._tree.slots[slot].field, logits[slot]
        unsafe = np.array([meaning <= UNSAFE[options.strict] for meaning in self._severities[slot]])
        judged = unsafe.any() and not unsafe.all()
        flagged, score, lead = False, 0.0, 0.0
        if judged:
            score = _share(row, unsafe, options)
            lead = float(row[~unsafe].max() - row[unsafe].max())
            bound = options.bound(field, field in self._decides)
            # At a tie the verdict is unsafe: a guard that cannot tell must not let pass.
            flagged = lead <= 0 if bound is None else score >= bound
            row = np.where(unsafe == flagged, row, -np.inf)
        label, probability, margin = None, 1.0, np.inf
        while label is None:
            best = int(np.argmax(row))
            choice = self._tree.slots[slot].choices[best]
            probability /= float(np.exp(row - row[best]).sum())
            margin = min(margin, float(row[best] - np.delete(row, best).max()))
            label, following = choice.label, choice.next
            if label is None and following is not None:
                slot, row = following, logits[following]
        found = (score, lead) if judged else (probability, margin)
        return _Answer(first, field, self._labels[label], flagged, *found, following)

    def _shares(self, slot: int, logits: list[Logits]) -> dict[str, float]:
        """Probability of each label of the field that `slot` begins."""
        found: dict[str, float] = {}
        shares = np.exp(logits[slot] - np.logaddexp.reduce(logits[slot])).tolist()
        for choice, share in zip(self._tree.slots[slot].choices, shares, strict=True):
            if choice.label is not None:
                inner = {self._labels[choice.label].name: 1.0}
            else:
                inner = self._shares(choice.next, logits) if choice.next is not None else {}
            for name, part in inner.items():
                found[name] = found.get(name, 0.0) + share * part
        return found


def combined(passes: Sequence[tuple[Outcome, ...]], **rest: Any) -> Verdict:
    """Each policy by the window where it fares worst; the worst policy speaks for the text. rest: the other fields.

    A category's score is the highest of any window and policy: what one of them found is in the text.
    """
    outcomes = [max(found, key=Outcome.severity) for found in zip(*passes, strict=True)]
    worst = max(outcomes, key=Outcome.severity)
    fields: dict[str, Field | None] = {}
    for outcome in outcomes:
        fields |= outcome.fields
    openai: dict[str, float] = {}
    for name, score in (
        item for outcomes_of in passes for outcome in outcomes_of for item in outcome.openai_scores.items()
    ):
        openai[name] = max(score, openai.get(name, 0.0))
    return Verdict(
        safe=not worst.flagged,
        label=worst.label.name,
        field=worst.field,
        categories=tuple(dict.fromkeys(name for outcome in outcomes for name in outcome.categories)),
        score=worst.score,
        margin=worst.margin,
        fields=fields,
        openai_scores=openai,
        **rest,
    )


def _share(row: Logits, unsafe: npt.NDArray[np.bool_], options: ScoreOptions) -> float:
    """Probability of unsafe. Everything is kept as a logarithm, as a low temperature sends all weights to zero."""
    powers = (row - np.logaddexp.reduce(row)) / options.temperature
    added = np.log(options.alpha) if options.alpha else -np.inf
    bad = np.logaddexp(np.logaddexp.reduce(powers[unsafe]), added)
    good = np.logaddexp(np.logaddexp.reduce(powers[~unsafe]), added)
    return float(np.exp(bad - np.logaddexp(bad, good)))


def _between(value: object, least: float, most: float) -> bool:
    """Numbers of numpy are taken as well."""
    return isinstance(value, Real) and not isinstance(value, bool) and least <= float(value) <= most
