"""The answers a guard may give, as text with slots: `Harmful request:{ yes| no}\\nResponse refusal:{ yes| no}`.

A slot is written out, `{ yes| no}`, or named, `{refusal}`, which stands for all answers of that field. Slots that are
written out belong to the fields in their order. Each alternative begins with an answer of the field; what follows it
there is what the guard goes on with, and may hold slots again: `{safe|unsafe\\nS{category}}`. A brace or bar itself is
doubled. Slots nest and cannot refer to each other, so no grammar is cyclic.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

_MOST = 4096  # complete answers


class GrammarError(ValueError):
    """What is wrong with a grammar, and at which character."""


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
    def fields(self) -> set[str]:
        """Fields that some answer decides."""
        return {field for path in self.paths() for field, _ in path.decisions}

    def paths(self) -> list[Path]:
        """Every complete answer."""
        return list(_paths(self.parts))


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
        raise parser.error(f"{text[parser.at]!r} closes nothing")
    if not any(isinstance(part, Slot) for part in grammar.parts):
        raise GrammarError("the answer has no slot, expected at least one, as { yes| no} or {field}")
    if _count(grammar.parts) > _MOST:
        raise GrammarError(f"the grammar has {_count(grammar.parts)} complete answers, expected at most {_MOST}")
    for path in grammar.paths():
        fields = [field for field, _ in path.decisions]
        if len(set(fields)) != len(fields):
            raise GrammarError(f"the answer {path.text!r:.80} decides a field twice: {fields}")
    return grammar


def _count(parts: tuple[str | Slot, ...]) -> int:
    slots = (part for part in parts if isinstance(part, Slot))
    return prod(sum(_count(alternative.rest) for alternative in slot.alternatives) for slot in slots)


class _Parser:
    def __init__(self, text: str, questions: Sequence[tuple[str, Sequence[str]]]) -> None:
        self.at = 0
        self._text, self._answers = text, dict(questions)
        self._unnamed = iter([field for field, _ in questions])

    def error(self, problem: str) -> GrammarError:
        return GrammarError(f"{problem}, at character {self.at} of {self._text!r:.80}")

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
        name = self._text[self.at + 1 :].partition("}")[0]
        if name in self._answers:
            self.at += len(name) + 2
            return Slot(name, tuple(Alternative(n, text, ()) for n, text in enumerate(self._answers[name])))
        if name.isidentifier():
            raise self.error(f"there is no field {name!r}, expected one of {list(self._answers)}")
        field = next(self._unnamed, None)
        if field is None:
            raise self.error(f"there are more slots than fields ({list(self._answers)}); name the slot, as {{field}}")
        alternatives: list[Alternative] = []
        while not alternatives or self._text[self.at : self.at + 1] == "|":
            self.at += 1
            alternatives.append(self._alternative(field, self.sequence(depth + 1)))
        if self._text[self.at : self.at + 1] != "}":
            raise self.error("a slot is not closed, expected }")
        if len({alternative.answer for alternative in alternatives}) != len(alternatives):
            raise self.error(f"a slot of {field} has the same answer twice")
        if len(alternatives) < 2:
            raise self.error(f"a slot of {field} has one answer, expected two or more")
        self.at += 1
        return Slot(field, tuple(alternatives))

    def _alternative(self, field: str, parts: tuple[str | Slot, ...]) -> Alternative:
        """The longest answer that the parts begin with, and the rest."""
        text = parts[0] if parts and isinstance(parts[0], str) else ""
        fitting = [(len(answer), n) for n, answer in enumerate(self._answers[field]) if text.startswith(answer)]
        if not fitting:
            answers = list(self._answers[field])
            raise self.error(f"{text!r:.40} begins with no answer of {field}, expected one of {answers}")
        length, answer = max(fitting)
        rest = (text[length:], *parts[1:]) if text[length:] else parts[1:]
        return Alternative(answer, text[:length], rest)
