"""The answers a guard may give, as text with slots: `Harmful request:{ yes| no}\\nResponse refusal:{ yes| no}`.

A slot is written out, `{ yes| no}`, or named, `{refusal}`, which stands for all answers of that field, or both,
`{refusal: yes| no}`. Slots that are written out and not named belong to the fields in their order. Each alternative
begins with an answer of the field; what follows it there is what the guard goes on with, and may hold slots again:
`{safe|unsafe\\nS{category}}`. A brace itself is doubled, and so is a bar inside a slot; a closing brace cannot stand
inside a slot, as two of them close two slots.
Slots nest and cannot refer to each other, so no grammar is cyclic.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

_MOST = 4096  # complete answers


class GrammarError(ValueError):
    """What is wrong with a grammar, and at which character, counted from 1."""


@dataclass(frozen=True)
class Alternative:
    """An answer (its place among those of the field), and what follows it."""

    answer: int
    text: str
    rest: "tuple[str | Slot, ...]"


@dataclass(frozen=True)
class Slot:
    """A place where one of several answers stands."""

    field: str
    alternatives: tuple[Alternative, ...]


@dataclass(frozen=True)
class Path:
    """One complete answer, and what it decides: fields and answers, in order."""

    text: str
    decisions: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Grammar:
    """Text and slots, in order."""

    parts: tuple[str | Slot, ...]

    @property
    def slots(self) -> list[Slot]:
        """Every slot, outer before inner."""
        return list(_slots(self.parts))

    @property
    def fields(self) -> set[str]:
        """Fields that some answer decides."""
        return {slot.field for slot in self.slots}

    def paths(self) -> list[Path]:
        """Every complete answer."""
        return list(_paths(self.parts))


def _slots(parts: tuple[str | Slot, ...]) -> Iterator[Slot]:
    for part in parts:
        if isinstance(part, Slot):
            yield part
            for alternative in part.alternatives:
                yield from _slots(alternative.rest)


def _paths(parts: tuple[str | Slot, ...]) -> Iterator[Path]:
    if not parts:
        yield Path("")
        return
    head, *rest = parts
    heads = [Path(head)] if isinstance(head, str) else list(_answers(head))
    tails = list(_paths(tuple(rest)))
    for first in heads:
        for last in tails:
            yield Path(first.text + last.text, first.decisions + last.decisions)


def _answers(slot: Slot) -> Iterator[Path]:
    for alternative in slot.alternatives:
        for path in _paths(alternative.rest):
            yield Path(alternative.text + path.text, ((slot.field, alternative.answer), *path.decisions))


def parse(text: str, questions: Sequence[tuple[str, Sequence[str]]]) -> Grammar:
    """Read a grammar over fields and their answers. Raises GrammarError."""
    parser = _Parser(text, questions)
    grammar = Grammar(parser.sequence(0))
    if parser.at < len(text):
        raise parser.error("a brace closes nothing; a brace itself is doubled")
    if not grammar.slots:
        raise GrammarError("the answer has no slot; expected at least one, as { yes| no} or {field}")
    if _count(grammar.parts) > _MOST:
        raise GrammarError(f"the grammar has more than {_MOST} complete answers; expected fewer slots or answers")
    for path in grammar.paths():
        fields = [field for field, _ in path.decisions]
        if len(set(fields)) != len(fields):
            raise GrammarError(f"the answer {path.text!r:.80} decides a field twice: {fields}")
    return grammar


def _count(parts: tuple[str | Slot, ...]) -> int:
    """How many complete answers there are: far more, maybe, than can be listed."""
    slots = (part for part in parts if isinstance(part, Slot))
    return prod(sum(_count(alternative.rest) for alternative in slot.alternatives) for slot in slots)


class _Parser:
    def __init__(self, text: str, questions: Sequence[tuple[str, Sequence[str]]]) -> None:
        self.at = 0
        self._text, self._answers = text, dict(questions)
        self._unnamed = iter([field for field, _ in questions])

    def error(self, problem: str, at: int | None = None) -> GrammarError:
        at = self.at if at is None else at
        near = self._text[max(0, at - 20) : at + 20]
        return GrammarError(f"{problem} (character {at + 1}, in {near!r})")

    def sequence(self, depth: int) -> tuple[str | Slot, ...]:
        """Text and slots up to the end, or to the bar or brace that ends an alternative."""
        parts: list[str | Slot] = []
        literal = ""
        while self.at < len(self._text):
            character, doubled = self._text[self.at], self._text[self.at : self.at + 2]
            if doubled == "{{" or doubled == ("||" if depth else "}}"):
                literal, self.at = literal + character, self.at + 2
            elif character == "{":
                parts += [literal] if literal else []
                parts.append(self._slot(depth))
                literal = ""
            elif character == "}" or (character == "|" and depth):
                break
            else:
                literal, self.at = literal + character, self.at + 1
        return (*parts, literal) if literal else tuple(parts)

    def _slot(self, depth: int) -> Slot:
        start = self.at
        head = re.match(r"(\w+):", self._text[start + 1 :])
        if head and head[1] in self._answers:
            self.at += len(head[0])
            return self._written_out(start, head[1], depth)
        name, closed, _ = self._text[start + 1 :].partition("}")
        if name.isidentifier() and not closed:
            raise self.error("a slot is not closed; expected }")
        if name in self._answers:
            self.at += len(name) + 2
            return self._checked(start, name, [Alternative(n, text, ()) for n, text in enumerate(self._answers[name])])
        if name.isidentifier():
            raise self.error(f"there is no field {name!r}; expected one of {list(self._answers)}")
        field = next(self._unnamed, None)
        if field is None:
            raise self.error(f"there are more slots than fields, {list(self._answers)}; name the slot, as {{field}}")
        return self._written_out(start, field, depth)

    def _written_out(self, start: int, field: str, depth: int) -> Slot:
        alternatives: list[Alternative] = []
        while not alternatives or self._text[self.at : self.at + 1] == "|":
            self.at += 1
            alternatives.append(self._alternative(field, depth + 1))
        if self._text[self.at : self.at + 1] != "}":
            raise self.error("a slot is not closed; expected }", start)
        self.at += 1
        return self._checked(start, field, alternatives)

    def _checked(self, start: int, field: str, alternatives: list[Alternative]) -> Slot:
        if len({alternative.answer for alternative in alternatives}) != len(alternatives):
            raise self.error(f"a slot of {field} has the same answer twice", start)
        if len(alternatives) < 2:
            raise self.error(f"a slot of {field} has fewer than two answers; expected two or more", start)
        return Slot(field, tuple(alternatives))

    def _alternative(self, field: str, depth: int) -> Alternative:
        """The longest answer that the next parts begin with, and the rest."""
        start, answers = self.at, self._answers[field]
        parts = self.sequence(depth)
        text = parts[0] if parts and isinstance(parts[0], str) else ""
        fitting = [(len(answer), n) for n, answer in enumerate(answers) if answer and text.startswith(answer)]
        if not fitting:
            raise self.error(f"{text!r:.40} begins with no answer of {field}; expected one of {list(answers)}", start)
        length, answer = max(fitting)
        rest = (text[length:], *parts[1:]) if text[length:] else parts[1:]
        return Alternative(answer, text[:length], rest)
