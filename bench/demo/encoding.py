"""Training prompts as ids: the shared head once, then each conversation's own part."""

import random
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from .chat import render
from .data import Example


@dataclass(frozen=True)
class Batch:
    """Conversations of about one length; rows are padded on the right, where no real token sees them."""

    ids: torch.Tensor
    last: torch.Tensor  # index of each row's last real id
    targets: torch.Tensor


def split_ids(tokenizer: Tokenizer, rng: random.Random, example: Example, share: float) -> list[int]:
    """Prompt ids; with probability share the text is cut inside a word once or more before encoding.

    Cut words come out as other, equally valid pieces, so the model does not hang on one segmentation.
    """
    text = render(example.user, example.assistant)
    if rng.random() >= share:
        return tokenizer.encode(text, add_special_tokens=False).ids
    start = text.index("<human>") + len("<human>")
    end = text.rindex("</ai>")
    spots = [at for at in range(start + 1, end) if text[at - 1].isalpha() and text[at].isalpha()]
    chosen = sorted(rng.sample(spots, min(len(spots), rng.randint(1, 1 + len(spots) // 12))))
    pieces = [text[a:b] for a, b in zip([0, *chosen], [*chosen, len(text)], strict=True)]
    return [token for piece in pieces for token in tokenizer.encode(piece, add_special_tokens=False).ids]


def head_ids(tokenizer: Tokenizer) -> list[int]:
    """Ids that every prompt starts with, up to the opening of the user's text."""
    first = tokenizer.encode(render("a", ""), add_special_tokens=False).ids
    other = tokenizer.encode(render("1", ""), add_special_tokens=False).ids
    length = next(at for at, (a, b) in enumerate(zip(first, other, strict=False)) if a != b)
    return first[: length - 2]  # two fewer: a first letter may merge with the bracket before it


def batches(tokenizer: Tokenizer, examples: list[Example], size: int, seed: int) -> list[Batch]:
    """One epoch in random order, each batch made of rows of similar length."""
    rng = random.Random(seed)
    head = head_ids(tokenizer)
    rows = []
    for example in examples:
        ids = split_ids(tokenizer, rng, example, share=0.2)
        if ids[: len(head)] != head:
            raise ValueError("a prompt does not start with the shared head")
        rows.append((ids[len(head) :], tokenizer.token_to_id(example.label)))
    rng.shuffle(rows)
    rows.sort(key=lambda row: len(row[0]) // 4)
    found = []
    for at in range(0, len(rows), size):
        part = rows[at : at + size]
        width = max(len(ids) for ids, _ in part)
        found.append(
            Batch(
                torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in part]),
                torch.tensor([len(ids) - 1 for ids, _ in part]),
                torch.tensor([target for _, target in part]),
            )
        )
    rng.shuffle(found)
    return found
