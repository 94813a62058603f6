"""Training and held-out conversations of the demo guard, deterministic from a seed.

Training conversations are drawn from the grammar files texts/train_*.txt, and varied from the natural ones in
texts/natural_*.tsv; held-out and blind ones are separate, hand-written sentences. A training conversation that shares a
sentence or an n-gram with those is thrown away; overlap.py proves that none is left.
"""

import random
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from .grammar import Grammar
from .noise import vary
from .wording import Words, wording

HERE = Path(__file__).parent
TEXTS = HERE / "texts"
UNSAFE = ("S1", "S2", "S3", "S4", "S5", "S6", "S7")
DRAWN = (*UNSAFE, "S4")  # crime has the widest vocabulary, so it is drawn twice as often
LANGUAGES = ("en", "ko")
NATURAL = 30


@dataclass(frozen=True)
class Example:
    """One labelled conversation; an empty assistant text means that only the prompt is judged."""

    lang: str
    label: str  # the verdict token, e.g. <SAFE> or <UNSAFE-S4>
    user: str
    assistant: str

    @property
    def mode(self) -> str:
        return "response" if self.assistant else "prompt"

    @property
    def turns(self) -> tuple[str, ...]:
        return (self.user, self.assistant) if self.assistant else (self.user,)


def token_of(code: str) -> str:
    """Verdict token of a code: SAFE -> <SAFE>, S1 -> <UNSAFE-S1>."""
    return "<SAFE>" if code == "SAFE" else f"<UNSAFE-{code}>"


@cache
def _grammar(lang: str) -> Grammar:
    return Grammar(*(TEXTS / f"train_{lang}{part}.txt" for part in ("", "_safe", "_mix", "_more")))


class _Writer:
    """Composes the turns of one language."""

    def __init__(self, rng: random.Random, lang: str) -> None:
        self.rng, self.lang, self.grammar = rng, lang, _grammar(lang)

    def _pick(self, code: str, kinds: dict[str, float]) -> str:
        section = self.rng.choices(list(kinds), list(kinds.values()))[0]
        return self.grammar.expand(self.rng, section, code)

    def unsafe_user(self, code: str) -> str:
        return self._pick(code, {"req": 26, "writereq": 16, "sayframe": 18, "bad": 11, "loose": 31})

    def benign_user(self) -> str:
        kinds = {"req": 20.0, "writereq": 12, "say": 19, "ctx": 2, "sayframe": 4, "loose": 25, "life": 18}
        return self._pick("SAFE", kinds)

    def safe_user(self) -> str:
        """A benign turn, or a contrast: unsafe words in a frame of prevention, news or study."""
        if self.rng.random() < 0.62:
            return self.benign_user()
        if self.rng.random() < 0.08:
            return self.grammar.expand(self.rng, "factcheck", "S7")
        return self._pick(self.rng.choice(UNSAFE), {"edu": 33, "prot": 33, "looseedu": 34})

    def reply(self, code: str) -> str:
        """A reply that complies with, or itself states, content of the code."""
        return self._pick(code, {"oky": 30, "oksay": 32, "okw": 16, "loose": 22})

    def harmless_reply(self) -> str:
        if self.rng.random() < 0.45:
            return self.reply("SAFE")
        return self._pick("SAFE", {"plain": 30, "help": 28, "refuse": 12, "life": 30})

    def dress(self, text: str) -> str:
        """Surface variation and benign sentences around the turn."""
        if self.rng.random() < 0.14:
            text = f"{self._pick('SAFE', {'ctx': 3, 'say': 1, 'life': 2})} {text}"
        if self.rng.random() < 0.1:
            text = f"{text} {self._pick('SAFE', {'ctx': 3, 'say': 1, 'life': 2})}"
        return vary(self.rng, text, self.lang)

    def varied(self, example: Example) -> Example:
        """A natural conversation, dressed like the grammar's."""
        assistant = self.dress(example.assistant) if example.assistant else ""
        return replace(example, user=self.dress(example.user), assistant=assistant)

    def conversation(self) -> Example:
        rng = self.rng
        respond, unsafe = rng.random() < 0.45, rng.random() < 0.52
        code, assistant = rng.choice(DRAWN) if unsafe else "SAFE", ""
        if not unsafe:
            user, assistant = self.safe_user(), self.harmless_reply() if respond else ""
        elif not respond:
            user = self.unsafe_user(code)
        elif rng.random() < 0.45:
            user = self.unsafe_user(code)
            assistant = self.reply(code) if rng.random() < 0.4 else self._pick(code, {"refuse": 8, "plain": 2})
        else:
            user, assistant = self.safe_user(), self.reply(code)
        user, assistant = self.dress(user), self.dress(assistant) if assistant else ""
        return Example(self.lang, token_of(code), user, assistant)


def grammar_set(count: int, seed: int = 0) -> list[Example]:
    """count different conversations of the grammar, English and Korean in turn."""
    rng = random.Random(seed)
    writers = [_Writer(rng, lang) for lang in LANGUAGES]
    found: dict[Example, None] = {}
    while len(found) < count:
        example = writers[len(found) % len(writers)].conversation()
        if _allowed(example):
            found[example] = None
    return list(found)


def natural_set(seed: int = 0) -> list[Example]:
    """The natural conversations, each varied NATURAL times."""
    rng = random.Random(seed)
    writers = {lang: _Writer(rng, lang) for lang in LANGUAGES}
    natural = [example for example in _read("natural") if _allowed(example)]
    varied = [writers[example.lang].varied(example) for example in natural for _ in range(NATURAL)]
    return list(filter(_allowed, varied))


def _allowed(example: Example) -> bool:
    """Whether it has no wording of the held-out or the blind set."""
    return all(_kept_out().isdisjoint(wording(example.lang, turn)) for turn in example.turns)


@cache
def _kept_out() -> frozenset[Words]:
    examples = held_out_set() + blind_set()
    return frozenset(words for e in examples for turn in e.turns for words in wording(e.lang, turn))


def held_out_set() -> list[Example]:
    """The hand-written held-out conversations, in file order. None shares wording with the training set."""
    return _read("heldout")


def blind_set() -> list[Example]:
    """Conversations by an author who saw neither training nor held-out set; the demo's threshold was chosen on it."""
    return _read("blind")


def _read(name: str) -> list[Example]:
    rows = []
    for lang in LANGUAGES:
        for line in (TEXTS / f"{name}_{lang}.tsv").read_text(encoding="utf-8").splitlines():
            if line and not line.startswith("#"):
                code, user, *rest = line.split("\t")
                rows.append(Example(lang, token_of(code), user, rest[0] if rest else ""))
    return rows
