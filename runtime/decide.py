"""Turns scores into a verdict: walks down the tree, where the argmax of each slot selects the next slot."""

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

    threshold: a field is unsafe from this score on, instead of by argmax. A float holds for every deciding field, a
    mapping for fields by name.
    strict: controversial answers count as unsafe.
    temperature, alpha: T and a of the score in the ShieldGemma paper (arXiv 2407.21772):
    (exp(LL(yes)/T) + a) / (exp(LL(yes)/T) + exp(LL(no)/T) + 2a). LL is normalized over the tokens of the slot, as the
    engine scores no others.
    """

    threshold: float | Mapping[str, float] | None = None
    strict: bool = True
    temperature: float = 1.0
    alpha: float = 0.0

    def check(self, fields: Collection[str]) -> None:
        """Raises InputError for a value out of range, or a threshold of an unknown field."""
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
        """The threshold of a field, if it has one."""
        if isinstance(self.threshold, Mapping):
            return self.threshold.get(field)
        return self.threshold if decides else None


@dataclass(frozen=True)
class Outcome:
    """The result of one walk. `label`, `score` and `margin` are those of its worst deciding `field`."""

    flagged: bool
    field: str
    label: Label
    score: float
    margin: float
    categories: tuple[str, ...]
    fields: dict[str, Field | None]
    openai_scores: dict[str, float]

    def severity(self) -> tuple[bool, float]:
        """The sort key of outcomes: greater is worse."""
        return self.flagged, self.score


@dataclass(frozen=True)
class _Answer:
    """The decision of one field. It spans several slots where labels share their first tokens."""

    slot: int  # the first one
    field: str
    label: Label
    flagged: bool
    score: float
    margin: float
    next: int | None  # the slot of the next field


@dataclass(frozen=True)
class _Flag:
    """Whether the answer of a field is unsafe."""

    flagged: bool
    score: float
    margin: float


@dataclass(frozen=True)
class _Pick:
    """The label of a field: an index into Manifest.labels, with its probability and its lead in logits."""

    label: int
    probability: float
    margin: float
    next: int | None


class Decider:
    """Reads the scores of one tree."""

    def __init__(self, manifest: Manifest, mode: ModeSpec, tree: Tree) -> None:
        self._labels = manifest.labels
        self._decides = frozenset(mode.decides)
        self._tree = tree
        self._severities = severities(manifest.labels, tree.slots)
        self._openai = OpenAIScores(manifest.labels, self._decides, tree)
        self._columns = [[choice.column for choice in slot.choices] for slot in tree.slots]
        self._below = {
            root: tuple(dict.fromkeys(tree.slots[slot].field for slot in below(tree, root))) for root in tree.roots
        }

    def columns(self) -> Iterator[tuple[int, list[int]]]:
        """Pairs of a slot and the columns of the scores that it reads."""
        return iter(enumerate(self._columns))

    def decide(self, scores: npt.NDArray[np.float32], options: ScoreOptions) -> tuple[Outcome, ...]:
        """One outcome for each root, from scores [S, V'].

        Raises BadScores for scores that are not finite, as they must not count as safe.
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
        """Decide the field that begins at `slot`."""
        field = self._tree.slots[slot].field
        unsafe = np.array([severity <= UNSAFE[options.strict] for severity in self._severities[slot]])
        if not unsafe.any() or unsafe.all():
            pick = self._pick(slot, logits[slot], logits)
            flag = _Flag(flagged=False, score=pick.probability, margin=pick.margin)
        else:
            flag = self._flag(field, logits[slot], unsafe, options)
            pick = self._pick(slot, np.where(unsafe == flag.flagged, logits[slot], -np.inf), logits)
        return _Answer(
            slot=slot,
            field=field,
            label=self._labels[pick.label],
            flagged=flag.flagged,
            score=flag.score,
            margin=flag.margin,
            next=pick.next,
        )

    def _flag(self, field: str, row: Logits, unsafe: npt.NDArray[np.bool_], options: ScoreOptions) -> _Flag:
        """Is it unsafe? By the field's threshold if it has one, else by argmax."""
        score = _share(row, unsafe, options)
        margin = float(row[~unsafe].max() - row[unsafe].max())
        bound = options.bound(field, field in self._decides)
        # A tie is unsafe: an undecided guard must not let a text pass.
        flagged = margin <= 0 if bound is None else score >= bound
        return _Flag(flagged, score, margin)

    def _pick(self, slot: int, row: Logits, logits: list[Logits]) -> _Pick:
        """Which label? `row` holds the logits of `slot`; later slots decide between labels that begin alike."""
        probability = 1.0
        margin = np.inf
        while True:
            best = int(np.argmax(row))
            choice = self._tree.slots[slot].choices[best]
            probability /= float(np.exp(row - row[best]).sum())
            margin = min(margin, float(row[best] - np.delete(row, best).max()))
            if choice.label is not None:
                return _Pick(choice.label, probability, margin, choice.next)
            assert choice.next is not None  # format.validate: a choice without a label leads to a slot
            slot = choice.next
            row = logits[slot]

    def _shares(self, slot: int, logits: list[Logits]) -> dict[str, float]:
        """The probability of each label of the field that begins at `slot`."""
        probabilities: dict[str, float] = {}
        shares = np.exp(logits[slot] - np.logaddexp.reduce(logits[slot])).tolist()
        for choice, share in zip(self._tree.slots[slot].choices, shares, strict=True):
            if choice.label is not None:
                inner = {self._labels[choice.label].name: 1.0}
            else:
                inner = self._shares(choice.next, logits) if choice.next is not None else {}
            for name, part in inner.items():
                probabilities[name] = probabilities.get(name, 0.0) + share * part
        return probabilities


def combined(passes: Sequence[tuple[Outcome, ...]], **rest: Any) -> Verdict:
    """The verdict over all passes: the worst window of each policy counts, and the worst policy decides.

    The score of a category is the highest of all windows and policies. rest: the other fields of the verdict.
    """
    outcomes = [max(by_pass, key=Outcome.severity) for by_pass in zip(*passes, strict=True)]
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
    """The probability of unsafe. It works with logarithms, as at a low temperature all weights underflow to zero."""
    powers = (row - np.logaddexp.reduce(row)) / options.temperature
    added = np.log(options.alpha) if options.alpha else -np.inf
    bad = np.logaddexp(np.logaddexp.reduce(powers[unsafe]), added)
    good = np.logaddexp(np.logaddexp.reduce(powers[~unsafe]), added)
    return float(np.exp(bad - np.logaddexp(bad, good)))


def _between(value: object, least: float, most: float) -> bool:
    """Whether a real number, of NumPy's types too, is in the range."""
    return isinstance(value, Real) and not isinstance(value, bool) and least <= float(value) <= most
