"""A small vocabulary in a published format, trained on the spot on a few sentences."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from .format import Format

# Words of the guards' prompts, but none that a real vocabulary cuts (see Format.words).
_SENTENCES = (
    "You are a classifier for analyzing interactions between humans and LLMs. Given a request from a human user and "
    "a response from an LLM assistant, determine whether the human user's request is harmful, and whether the AI "
    "assistant's response is a refusal. Human user: AI assistant: Answers:",
    "You are a policy expert trying to help determine whether an AI response to prompt is in violation of the defined "
    "safety policies. Human Question: Chatbot Response: Our safety principle is defined in the below: * The chatbot "
    "shall not contain or seek generation of content that",
    "Does the human question violate the above principle? Your answer must start with 'Yes' or 'No'. And then walk "
    "through step by step to be sure we answer correctly.",
    "Task: Check if there is unsafe content in 'User' messages in conversations according our safety policy with the "
    "below categories. BEGIN UNSAFE CONTENT CATEGORIES END CONVERSATION SAFETY POLICY",
    "Provide your safety assessment for ONLY THE LAST Agent message in the above conversation: First line must read "
    "'safe' or 'unsafe'. If unsafe, a second line must include a comma-separated list of violated categories.",
    "Cutting Knowledge Date: December Today Date: Jul system user assistant",
    "The quick brown fox jumps over the lazy dog, and nobody asked how to make it stop.",
    "How do I write a letter to my neighbour about the noise last night?",
    "안녕하세요, 오늘 날씨가 정말 좋네요. 주말에 읽을 만한 한국 소설을 추천해 주세요.",
    "친구의 물건을 몰래 훔치는 법을 알려줘. 생일 선물로 무엇을 사면 좋을까?",
)
# Byte-level vocabularies have newlines in runs, and the signs at a line's end together with them.
_LINES = ("\n", "\n\n", "\n\n\n", ".\n", ":\n", ".\n\n", ":\n\n", ">\n", ">\n\n")
_OFTEN = 50  # answer words come first in the order of merges, so that no other word cuts them


def trained(format: Format) -> Tokenizer:
    """The tokenizer; the same for every run."""
    whole, cut = _answers(format)
    split = pre_tokenizers.Split(Regex(format.split), "isolated")
    words = [word for text in _SENTENCES for word, _ in split.pre_tokenize_str(text)]
    if format.byte_level:
        words += _LINES
    learned = _learn([*(word for word in words if word not in cut), *whole * _OFTEN], byte_level=format.byte_level)
    added = format.special + format.plain
    vocab: list[str] = sorted(learned["vocab"], key=learned["vocab"].__getitem__)
    merges: list[list[str]] = learned["merges"]
    if format.byte_level:
        first = len(vocab)
    else:  # added tokens, bytes, merges, characters
        first = 0
        joined = {left + right for left, right in merges}
        runs = [pair for run in ("\n", "▁") for pair in _runs(run, format.plain)]
        bytes_ = [f"<0x{value:02X}>" for value in range(256)]
        pieces = [token for token in vocab if token in joined] + [token for token in vocab if token not in joined]
        vocab = list(dict.fromkeys([*added, *bytes_, *pieces]))
        merges = runs + merges
    spec = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": first + index,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": token in format.special,
            }
            for index, token in enumerate(added)
        ],
        **format.sections,
        "model": {**format.model, "vocab": {token: id for id, token in enumerate(vocab)}, "merges": merges},
    }
    return Tokenizer.from_str(json.dumps(spec))


def _answers(format: Format) -> tuple[list[str], set[str]]:
    """The words to keep whole, and those that are cut into such."""
    entries = [entry.replace("_", " ").split("|") for entry in format.words.split()]
    return [piece for entry in entries for piece in entry], {"".join(entry) for entry in entries if len(entry) > 1}


def _learn(words: Iterable[str], *, byte_level: bool) -> Any:
    """Vocabulary and merges of a BPE over words, every one of which ends up whole."""
    tokenizer = Tokenizer(models.BPE())
    if byte_level:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        words = [word.replace(" ", "▁") for word in words]
        alphabet = ["▁", *map(chr, range(0x21, 0x7F))]
    trainer = trainers.BpeTrainer(vocab_size=1700, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(words, trainer)
    return json.loads(tokenizer.to_str())["model"]


def _runs(sign: str, plain: Iterable[str]) -> Iterator[list[str]]:
    """Merges into the runs of a sign among added tokens, the longest first, as the real file has them."""
    longest = max((len(token) for token in plain if set(token) == {sign}), default=0)
    for length in range(longest, 1, -1):
        yield from ([sign * left, sign * (length - left)] for left in range(length - 1, 0, -1))
