"""Where a prompt is split into prefix, span and tree: only where no token can reach across."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import get_args

from guardpass.errors import TemplateError
from guardpass.format.manifest import Piece, Role
from guardpass.tokenizer import assemble

from ..checkpoint.tokenizer import CheckpointTokenizer
from .probes import PROBES

Token = tuple[int, int, int]  # id, first character, end

_NEAR = 64  # characters before the content
_FOLLOWING = (*string.printable, *(probe for probe in PROBES if len(probe) < 40))


@dataclass(frozen=True)
class Split:
    """A prompt, split. The prefix is `hard`, and `lead`, which is ordinary text that the span begins with."""

    hard: tuple[int, ...]
    lead: tuple[int, ...]
    span: tuple[Piece, ...]
    tail: tuple[int, ...]  # what of the prompt is the tree's
    closing: int  # characters of the prompt's last piece that are the span's
    around: tuple[str, ...]  # static text around the contents, between control tokens


@dataclass(frozen=True)
class SpanStart:
    """Where the span begins, in the text before the content and in its tokens."""

    text: int  # characters before it
    tokens: int  # tokens before it: as one that strips white space around it ends elsewhere in the text
    control: int  # characters up to the end of the last control token


def split_prompt(
    pieces: Sequence[Piece], bos: Sequence[int], tokenizer: CheckpointTokenizer, *, early: bool = False
) -> Split:
    """Split a prompt that begins and ends with static text.

        <|start|>user<|sep|>Judge this: {prompt}</human><|end|><|start|>assistant<|sep|>
        |______ hard ______||_________ span ___________||____________ tail _____________|
                            |_ lead _|

    The lead is in the prefix and in the span: its keys and values are baked, and where content merges with its end the
    runtime masks those columns. early: the span ends as soon as it can, as policies stand behind the content.
    Raises TemplateError where no place after the content keeps the verdict apart from it.
    """
    before, inner, after = pieces[0].text, pieces[1:-1], pieces[-1].text
    contents: dict[Role, str] = dict.fromkeys(get_args(Role), "a")
    whole = assemble(pieces, contents)
    tokens = tokenizer.encode(whole)
    after_at = len(whole) - len(after)
    start = find_span_start(before, tokens, tokenizer)
    lead = before[start.text :] if start.tokens else tokenizer.opening(before)
    controls = [first - after_at for id, first, _ in tokens if id in tokenizer.reserved and first >= after_at]
    end = find_span_end(before, start, lead, after, min(controls, default=None), tokenizer, early=early)
    middle = [part for piece in inner for part in split_controls(piece, tokenizer)]
    span = [Piece(lead), *middle, Piece(after[:end])]
    around = [Piece(before[start.control :]), *span[1:]]
    return Split(
        hard=(*bos, *(id for id, _, _ in tokens[: start.tokens])),
        lead=tuple(tokenizer.content_ids(lead)),
        span=tuple(piece for piece in span if piece.role or piece.text),
        tail=tuple(id for id, first, _ in tokens if first >= after_at + end),
        closing=end,
        around=tuple(piece.text for piece in around if not piece.ids),
    )


def find_span_start(before: str, tokens: Sequence[Token], tokenizer: CheckpointTokenizer) -> SpanStart:
    """The last place before the content that no token can span.

        <|start|>user<|sep|>Judge the text below.\\n{prompt}
                            ^ (1)                ^ (2)

    (1) is behind the last control token, which is cut out before any merge: right, but a long text before the content
    would be tokenized with every content again. (2) is near the content: pre-tokenization always splits there, and no
    token of the vocabulary holds both characters around it. Without (2) the span begins at (1), without (1) at 0.
    tokens: of the whole prompt.
    """
    ends = [
        (end, number)
        for number, (id, _, end) in enumerate(tokens, start=1)
        if id in tokenizer.reserved and end <= len(before)
    ]
    control, count = ends[-1] if ends else (0, 0)
    for at in range(len(before) - 1, max(control, len(before) - _NEAR), -1):
        if tokenizer.parts(*before[at - 1 : at + 1]) and _starts_alone(before, at, tokenizer):
            return SpanStart(at, sum(end <= at for _, _, end in tokens), control)
    return SpanStart(control, count, control)


def find_span_end(
    before: str,
    start: SpanStart,
    lead: str,
    after: str,
    control: int | None,
    tokenizer: CheckpointTokenizer,
    *,
    early: bool,
) -> int:
    """Characters of `after` that belong to the span: up to the first place that no token can span.

        {prompt}</human>\\n<|end|><|start|>assistant         {prompt}\\n\\nPolicy: ...\\n<|end|>
                         ^ 9                                         ^ 1, where early

    control: where the first control token of `after` begins, the place to end at; None where it has none. Without it,
    or `early`, the span ends where pre-tokenization always splits and no token holds both characters. Raises
    TemplateError where there is no place at all.
    """
    if control is not None and not early:
        return control
    for at, (left, right) in enumerate(pairwise(after[:control]), start=1):
        if tokenizer.parts(left, right) and _ends_alone(before, start, lead, after, at, tokenizer):
            return at
    if control is None:
        raise TemplateError(
            "the prompt has no control token after the content, nor a place where the tokenizer always splits, so "
            "the verdict could merge with the text"
        )
    return control


def split_controls(piece: Piece, tokenizer: CheckpointTokenizer) -> list[Piece]:
    """Text between two contents, its control tokens as pieces with ids.

    {prompt}<|end|><|start|>assistant<|sep|>{response}
            |  id || id  ||  text   || id  |
    """
    if piece.role:
        return [piece]
    parts, at = [], 0
    for id, first, end in tokenizer.encode(piece.text):
        if id in tokenizer.reserved:
            parts += [Piece(piece.text[at:first]), Piece(piece.text[first:end], ids=(id,))]
            at = end
    return [*parts, Piece(piece.text[at:])]


def _starts_alone(before: str, at: int, tokenizer: CheckpointTokenizer) -> bool:
    """Whether the text from `at` on has, whatever follows it, the tokens that it has within the whole."""
    for following in _FOLLOWING:
        text = before + following
        within = [id for id, first, _ in tokenizer.encode(text) if first >= at]
        if not tokenizer.splits(text, at) or tokenizer.content_ids(text[at:]) != within:
            return False
    return True


def _ends_alone(before: str, start: SpanStart, lead: str, after: str, at: int, tokenizer: CheckpointTokenizer) -> bool:
    """Whether a span that ends at `at` has on its own the tokens that it has within the whole."""
    for probe in PROBES:
        text, end = before + probe + after, len(before) + len(probe) + at
        within = [id for id, first, last in tokenizer.encode(text) if first >= start.text and last <= end]
        if not tokenizer.splits(text, end) or tokenizer.content_ids(lead + probe + after[:at]) != within:
            return False
    return True
