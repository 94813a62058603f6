"""Texts of a wanted length."""

import random

from guardpass import Guard

_WORDS = (
    "weather",
    "letter",
    "kitchen",
    "오늘",
    "friend",
    "river",
    "날씨가",
    "music",
    "책을",
    "garden",
    "window",
    "사과",
    "train",
    "paper",
    "시간",
    "story",
)


def text_of_tokens(guard: Guard, tokens: int, seed: int = 0) -> str:
    """Words that take about so many tokens of the guard's tokenizer, others for each seed."""
    rng = random.Random(seed)
    text = f"{seed}"
    least = guard.check("").tokens.run
    while guard.check(text).tokens.run - least < tokens - 1 and len(text) < 100000:
        missing = tokens - (guard.check(text).tokens.run - least)
        text += " " + " ".join(rng.choices(_WORDS, k=max(1, missing // 3)))
    return text
