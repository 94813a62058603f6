"""A guard on labelled texts: the score that a threshold is compared with, and the answer by argmax."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from guardpass import Guard
from guardpass.errors import InputError
from guardpass.format.manifest import Manifest, Mode, ModeSpec
from guardpass.format.tree import below, judged

from .labelled_lines import Line, Lines
from .operating_point import Bools, Floats

UNANSWERED = -1.0  # the score of a field that the answer leaves out: no threshold flags it


@dataclass(frozen=True)
class Scored:
    """The N texts of one mode. fields: those that get the threshold. truth [N], argmax [N]: unsafe by the label, and by
    argmax. scores [N]: a threshold t on `fields` flags exactly the texts whose score is >= t.
    """

    mode: Mode
    fields: tuple[str, ...]
    lines: tuple[Line, ...]
    truth: Bools
    argmax: Bools
    scores: Floats


@dataclass(frozen=True)
class Plan:
    """How the texts of one mode are judged. kept: thresholds of the other fields, which stay in force meanwhile."""

    mode: Mode
    fields: tuple[str, ...]
    field: str | None
    policies: tuple[str, ...] | None
    kept: dict[str, float]

    @classmethod
    def of(cls, manifest: Manifest, mode: Mode, field: str | None) -> "Plan":
        """For one field, or for all that decide where no policies are named. Raises InputError for an unknown field."""
        spec = manifest.modes[mode]
        usual = _answered(spec)
        policies = None
        if field is None:
            fields = tuple(name for name in spec.decides if name in usual)
        else:
            known = judged(manifest.labels, spec.tree)
            if field not in known:
                raise InputError(f"--field is {field!r}, expected one of mode {mode} of {sorted(known)}")
            fields = (field,)
            if field not in usual:
                policies = tuple(root for root, answers in _branches(spec).items() if field in answers)
        kept = {name: each.score for name, each in spec.thresholds.items() if name not in fields}
        return cls(mode, fields, field, policies, kept)

    def truth(self, given: Lines, spec: ModeSpec) -> Bools:
        """Which lines of the mode are unsafe by their labels, [N]. Raises InputError for a line without the label, and
        where all labels are the same.
        """
        labels = []
        for line in given.of(self.mode):
            label = line.labels.get(self.field) if self.field else line.unsafe
            if label is None and spec.decides == (self.field,):
                label = line.unsafe
            if label is None:
                wanted = f'"labels": {{"{self.field}": true}} (or false)' if self.field else '"unsafe": true or false'
                raise InputError(f"{given.path} line {line.number} has no label for this; give it {wanted}")
            labels.append(label)
        if all(labels) or not any(labels):
            raise InputError(
                f"{given.path}, mode {self.mode}: found {sum(labels)} unsafe and "
                f"{len(labels) - sum(labels)} safe texts, expected some of both; label more texts"
            )
        return np.array(labels)


def score(guard: Guard, given: Lines, plan: Plan, truth: Bools, advance: Callable[[], None]) -> Scored:
    """Judge the lines of the plan's mode, whose labels are `truth`. Raises InputError naming a line that cannot be
    judged, EngineError where the engine fails.
    """
    lines = given.of(plan.mode)
    argmax, scores = np.zeros(len(lines), bool), np.zeros(len(lines))
    for at, line in enumerate(lines):
        try:
            scores[at], argmax[at] = _score(guard, line, plan)
        except InputError as error:
            raise type(error)(f"{given.path} line {line.number}: {error}") from None
        advance()
    return Scored(plan.mode, plan.fields, lines, truth, argmax, scores)


def _score(guard: Guard, line: Line, plan: Plan) -> tuple[float, bool]:
    """At a threshold of 1 every answer below is safe, and the walk goes the way it goes at any threshold that does not
    flag the text before: the greatest score on it is what any threshold is held against.
    """
    highest = guard.check(
        line.text, line.response, policies=plan.policies, threshold=plan.kept | dict.fromkeys(plan.fields, 1.0)
    )
    found = highest
    if found.windows > 1 or found.normalized:  # argmax may find another window, or form, worse
        found = guard.check(line.text, line.response, policies=plan.policies, threshold=plan.kept)
    # Up to the first field that argmax calls unsafe, its walk is the same.
    answers = [found.fields.get(name) for name in plan.fields]
    argmax = any(answer is not None and answer.margin <= 0 for answer in answers)
    if plan.field is None:
        return highest.score, argmax
    answer = highest.fields[plan.field]
    return (UNANSWERED if answer is None else answer.score), argmax


def _branches(spec: ModeSpec) -> dict[str, set[str]]:
    """By root, the fields that its walks may answer."""
    slots = spec.tree.slots
    return {slots[root].field: {slots[each].field for each in below(spec.tree, root)} for root in spec.tree.roots}


def _answered(spec: ModeSpec) -> set[str]:
    """Fields that a check answers where no policies are named."""
    branches = _branches(spec)
    return set().union(*(fields for root, fields in branches.items() if not spec.asked or root in spec.asked))
