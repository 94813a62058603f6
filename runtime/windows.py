"""Splits a text that is longer than one pass into overlapping windows. Truncation happens on request only."""

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Literal

from .errors import TextTooLong
from .format.manifest import ModeSpec, Role
from .plan import Planner
from .tokenizer import ContentTokenizer, strip

LongText = Literal["windows", "refuse", "truncate"]
_LONGEST = 4 << 20  # characters; the regular expressions of tokenizers fail not far beyond
_SMALLEST = 16  # content tokens; a smaller window carries too little context


@dataclass(frozen=True)
class Limits:
    """Tokens of one pass, windows of one check, and the policy for longer text."""

    tokens: int
    windows: int
    policy: LongText


def spans(
    texts: dict[Role, str], mode: ModeSpec, planner: Planner, tokenizer: ContentTokenizer, limits: Limits
) -> tuple[list[list[int]], bool]:
    """Spans that together cover the texts, each within the token limit, and whether text was truncated.

    Raises TextTooLong where the policy refuses, where the text needs more windows than allowed, or where the limit
    leaves no room for content.
    """
    limit, policy = limits.tokens, limits.policy
    # Strip first: white space that the template drops must not displace text.
    contents = {p.role: strip(texts[p.role], p.strip) for p in mode.span if p.role}
    # A token covers at most `longest_token` characters, so longer text cannot fit and is not encoded.
    longest = min(limit * (1 if policy == "refuse" else limits.windows) * tokenizer.longest_token, _LONGEST)
    size = sum(map(len, contents.values()))
    if size > longest and policy != "truncate":
        raise TextTooLong(_refusal(f"{size} characters", limits))
    shortened = {role: text[:longest] for role, text in contents.items()}

    whole = planner.span(shortened)
    if planner.length(whole) <= limit and shortened == contents:
        return [whole], False
    if policy == "refuse":
        raise TextTooLong(_refusal(f"{planner.length(whole)} tokens", limits))

    offsets = {role: tokenizer.offsets(text) for role, text in shortened.items()}
    frame = planner.length(planner.span(dict.fromkeys(texts, "")))
    budget = limit - frame
    while budget >= _SMALLEST * len(texts):
        sizes = _share(budget, {role: len(tokens) for role, tokens in offsets.items()})
        cuts = {role: _cut(shortened[role], offsets[role], sizes[role]) for role in texts}
        if policy == "truncate":
            cuts = {role: parts[:1] for role, parts in cuts.items()}
        count = prod(map(len, cuts.values()))
        if count > limits.windows:
            raise TextTooLong(_refusal(f"{count} windows", limits))
        result = [planner.span(dict(zip(cuts, parts, strict=True))) for parts in product(*cuts.values())]
        excess = max(map(planner.length, result)) - limit
        if excess <= 0:
            return result, policy == "truncate"
        budget -= excess  # a window alone may encode to a few more tokens than inside the text
    raise TextTooLong(
        f"a pass of {limit} tokens leaves room for {limit - frame} tokens of text, expected at least "
        f"{_SMALLEST * len(texts)}; raise max_tokens"
    )


def _share(budget: int, lengths: dict[Role, int]) -> dict[Role, int]:
    """The tokens of each text in a window. The shorter text stays whole if it takes at most half."""
    if len(lengths) == 1:
        return dict.fromkeys(lengths, budget)
    short = min(lengths, key=lambda role: lengths[role])
    part = min(lengths[short], budget // 2)
    return {role: part if role == short else budget - part for role in lengths}


def _cut(text: str, offsets: list[tuple[int, int]], size: int) -> list[str]:
    """Overlapping parts of at most `size` tokens. The overlap is an eighth, so a short phrase stays whole in one."""
    if len(offsets) <= size:
        return [text]
    step = size - size // 8
    starts = range(0, len(offsets) - size + step, step)
    return [text[offsets[s][0] : offsets[min(s + size, len(offsets)) - 1][1]] for s in starts]


def _refusal(size: str, limits: Limits) -> str:
    passes = "one pass" if limits.policy == "refuse" else f"{limits.windows} windows"
    return (
        f"the text takes {size}, expected at most {passes} of {limits.tokens} tokens; "
        "raise max_windows or max_tokens, or shorten it"
    )
