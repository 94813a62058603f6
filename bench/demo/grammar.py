"""Training grammar: text files with [sections] of rules; (a|b) picks one, {name} expands a section."""

import math
import random
import re
from pathlib import Path

from .hangul import inflect

_INNER = re.compile(r"\(([^()]*)\)")
_SLOT = re.compile(r"\{([\w.]+)\}")
_GERUND = re.compile(r"ing~(\w+)")
_DOUBLED = re.compile("cut|get|run|put|set|rob|shop|swim|stop|trim|chop|stab|con|scam|ban|plan|win|drop")
_PER_LABEL = {"act", "write", "say", "topic"}


def gerund(verb: str) -> str:
    """English -ing form of a verb."""
    if _DOUBLED.fullmatch(verb):
        return verb + verb[-1] + "ing"
    return (verb[:-1] if verb.endswith("e") and not verb.endswith("ee") else verb) + "ing"


class Grammar:
    """The rules of one language."""

    def __init__(self, *files: Path) -> None:
        self.sections: dict[str, list[str]] = {}
        rules: list[str] = []
        for line in (line for file in files for line in file.read_text(encoding="utf-8").splitlines()):
            if line.startswith("[") and line.endswith("]"):
                rules = self.sections.setdefault(line[1:-1], [])
            elif line.strip() and not line.startswith("# "):
                rules.append(line)
        # Rules with more alternatives are drawn more often, by the square root so that none dominates.
        self._weights = {
            name: [math.sqrt(sum(self._words(rule))) for rule in body] for name, body in self.sections.items()
        }

    @staticmethod
    def _words(rule: str) -> tuple[int, int]:
        return rule.count("|"), 2 * rule.count("{") + 1

    def expand(self, rng: random.Random, section: str, label: str = "SAFE") -> str:
        """One random sentence of the section; act, write, say and topic come from the label's sections."""

        def slot(match: re.Match[str]) -> str:
            name = match.group(1)
            return draw(f"{label}.{name}" if name in _PER_LABEL else name)

        def draw(name: str) -> str:
            return _SLOT.sub(slot, rng.choices(self.sections[name], self._weights[name])[0])

        text, found = draw(f"{label}.{section}" if section in _PER_LABEL else section), 1
        while found:
            text, found = _INNER.subn(lambda match: rng.choice(match.group(1).split("|")), text)
        text = _GERUND.sub(lambda match: gerund(match.group(1)), text)
        return re.sub(r" {2,}", " ", inflect(text)).replace(" 's", "'s").strip()
