"""Sentences and word n-grams of texts: what two sets of text may not share."""

import re

NGRAM = {"en": 5, "ko": 4}  # words; Korean counts eojeol (space-separated), which carry more each
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
Words = tuple[str, ...]


def _words(text: str) -> Words:
    return tuple(word for raw in text.lower().split() if (word := re.sub(r"\W", "", raw)))


def wording(lang: str, text: str) -> set[Words]:
    """The whole text, each sentence in it and every n-gram, case and punctuation aside."""
    words, size = _words(text), NGRAM[lang]
    found = {words[at : at + size] for at in range(len(words) - size + 1)}
    found.update(_words(part) for part in [text, *_SENTENCE_END.split(text)])
    return found - {()}
