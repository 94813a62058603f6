"""Proof that held-out and training set share no wording: python -m guardpass.bench.demo.overlap"""

from collections.abc import Iterable

from .data import Example, blind_set, grammar_set, held_out_set, natural_set
from .wording import Words, wording


def shared_wording(train: Iterable[Example], held_out: Iterable[Example]) -> list[str]:
    """Sentences and n-grams (5 English words, 4 Korean eojeol) that both sets have; empty is the proof."""

    def of(examples: Iterable[Example]) -> set[Words]:
        return {words for e in examples for turn in (e.user, e.assistant) for words in wording(e.lang, turn)}

    return sorted(" ".join(words) for words in of(train) & of(held_out))


if __name__ == "__main__":
    from .train import GRAMMAR

    overlap = shared_wording(grammar_set(GRAMMAR) + natural_set(), held_out_set() + blind_set())
    print(f"{len(overlap)} shared sentences or n-grams", *overlap, sep="\n")
    raise SystemExit(bool(overlap))
