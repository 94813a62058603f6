"""Surface variation of a sentence: case, punctuation, spacing, typos and emoji."""

import random

_TAILS = {
    "en": ["!!", "??", " lol", " :)", " :(", " 😀", " 🙏", "...", " haha", " 😡"],
    "ko": ["!!", "??", " ㅋㅋ", " ㅠㅠ", "~", " 😀", " 🙏", "...", " ㅎㅎ", "ㅋㅋㅋ"],
}


def _typo(rng: random.Random, text: str) -> str:
    place = rng.randrange(len(text) - 1)
    pair = text[place : place + 2]
    return text[:place] + rng.choice([pair[::-1], pair[0], pair[0] + pair]) + text[place + 2 :]


def _drop_word(rng: random.Random, text: str) -> str:
    words = text.split(" ")
    del words[rng.choice([0, len(words) - 1, rng.randrange(len(words))])]
    return " ".join(words)


def _strange_word(rng: random.Random, lang: str) -> str:
    """A made-up word: unknown words must not sway the verdict."""
    if lang == "ko":
        return "".join(chr(rng.randrange(0xAC00, 0xD7A4, 4)) for _ in range(rng.randint(1, 3)))
    return "".join(rng.choice("bcdfglmnprstvw") + rng.choice("aeiou") for _ in range(rng.randint(1, 3)))


def vary(rng: random.Random, text: str, lang: str) -> str:
    """The sentence as a hurried or careful person might type it; deterministic from rng."""
    if rng.random() < 0.25:
        text = text.rstrip(".!?")
    if lang == "en" and rng.random() < 0.3:
        text = text.lower() if rng.random() < 0.6 else text[:1].upper() + text[1:]
    if lang == "ko" and " " in text and rng.random() < 0.15:
        words = text.split(" ")
        place = rng.randrange(1, len(words))
        text = " ".join([*words[: place - 1], words[place - 1] + words[place], *words[place + 1 :]])
    if len(text) > 25 and rng.random() < 0.08:
        text = _typo(rng, text)
    if text.count(" ") > 5 and rng.random() < 0.04:
        text = _drop_word(rng, text)
    if rng.random() < 0.08:
        words = text.split(" ")
        words.insert(rng.randrange(len(words) + 1), _strange_word(rng, lang))
        text = " ".join(words)
    if rng.random() < 0.1:
        text = text.rstrip(".!?") + rng.choice(_TAILS[lang])
    return text.strip()
