"""Text that does not fit one pass is judged in overlapping windows; the runtime never drops any of it unasked."""

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Literal

from .errors import TextTooLong
from .format.manifest import ModeSpec, Role
from .plan import Planner
from .tokenizer import ContentTokenizer, strip

LongText = Literal["windows", "refuse", "truncate"]
_LONGEST = 4 << 20  # characters; tokenizers' regular expressions give up somewhat beyond
_SMALLEST = 16  # content tokens; below this a window says nothing about its text


@dataclass(frozen=True)
class Limits:
    """Positions of one pass, passes of one check, and what to do with text beyond the first of them."""

    tokens: int
    windows: int
    policy: LongText


def spans(
    texts: dict[Role, str], mode: ModeSpec, planner: Planner, tokenizer: ContentTokenizer, limits: Limits
) -> tuple[list[list[int]], bool]:
    """Spans that together cover the texts, each within the limit of tokens, and whether text was left out.

    Raises TextTooLong where the policy refuses, where more windows were needed than allowed, or where the limit
    leaves no room for content.
    """
    limit, policy = limits.tokens, limits.policy
    # Stripping first, so that white space the template drops neither counts nor displaces text.
    contents = {p.role: strip(texts[p.role], p.strip) for p in mode.span if p.role}
    # A token covers at most `longest_token` characters, so this much text cannot fit: no need to encode it.
    most = min(limit * (1 if policy == "refuse" else limits.windows) * tokenizer.longest_token, _LONGEST)
    size = sum(map(len, contents.values()))
    if size > most and policy != "truncate":
        raise TextTooLong(_refusal(f"{size} characters", limits))
    shortened = {role: text[:most] for role, text in contents.items()}

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
        budget -= excess  # a window on its own may encode to a few tokens more than it did inside the text
    raise TextTooLong(
        f"a pass of {limit} tokens leaves room for {limit - frame} tokens of text, expected at least "
        f"{_SMALLEST * len(texts)}; raise max_tokens"
    )


def _share(budget: int, lengths: dict[Role, int]) -> dict[Role, int]:
    """Tokens of each text in a window: the shorter stays whole while it takes no more than half."""
    if len(lengths) == 1:
        return dict.fromkeys(lengths, budget)
    short = min(lengths, key=lambda role: lengths[role])
    kept = min(lengths[short], budget // 2)
    return {role: kept if role == short else budget - kept for role in lengths}


def _cut(text: str, offsets: list[tuple[int, int]], size: int) -> list[str]:
    """Overlapping parts of at most `size` tokens; the overlap is an eighth, so no short phrase is split unseen."""
    if len(offsets) <= size:
        return [text]
    step = size - size // 8
    starts = range(0, len(offsets) - size + step, step)
    return [text[offsets[s][0] : offsets[min(s + size, len(offsets)) - 1][1]] for s in starts]


def _refusal(found: str, limits: Limits) -> str:
    passes = "one pass" if limits.policy == "refuse" else f"{limits.windows} windows"
    return (
        f"the text takes {found}, expected at most {passes} of {limits.tokens} tokens; "
        "raise max_windows or max_tokens, or shorten it"
    )
