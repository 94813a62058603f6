"""Where a prompt is cut into prefix, span and tree: only where no token can reach across."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from guardpass.content import assemble
from guardpass.errors import TemplateError
from guardpass.manifest import Piece, Role

from ..checkpoint.tokenizer import CheckpointTokenizer
from .probes import PROBES

_NEAR = 64  # characters before the content
_FOLLOWING = (*string.printable, *(probe for probe in PROBES if len(probe) < 40))


@dataclass(frozen=True)
class Cut:
    """A prompt, cut. The prefix is `hard`, and `lead`, which is ordinary text that the span begins with."""

    hard: tuple[int, ...]
    lead: tuple[int, ...]
    span: tuple[Piece, ...]
    tail: tuple[int, ...]  # what of the prompt is the tree's
    closing: int  # characters of the prompt's last piece that are the span's
    around: tuple[str, ...]  # static text around the contents, between control tokens


def cut(pieces: Sequence[Piece], bos: Sequence[int], tokenizer: CheckpointTokenizer, *, early: bool = False) -> Cut:
    """Cut a prompt that begins and ends with static text.

    The span begins at the last place before the content, and ends at the first one after it, that no token can span.
    Before the content that is a control token, which is cut out before any merge, or a place where pre-tokenization
    always splits and whose two characters no token of the vocabulary holds together; after it, the latter only where
    no control token follows, or where the span is to end `early`, as policies stand behind it.
    Raises TemplateError where there is no such place.
    """
    before, inner, after = pieces[0].text, pieces[1:-1], pieces[-1].text
    texts: dict[Role, str] = {"prompt": "a", "response": "a"}
    whole = assemble(pieces, texts)
    tokens = tokenizer.encode(whole)
    controls = [(number, first, end) for number, (id, first, end) in enumerate(tokens) if id in tokenizer.reserved]
    rest = len(whole) - len(after)
    # Counted in tokens, as one that strips white space around it ends elsewhere in the text.
    opened = max((number + 1 for number, _, end in controls if end <= len(before)), default=0)
    opening = control = tokens[opened - 1][2] if opened else 0
    # The span need not begin that early: tokenizing a long opening with every text would cost, and change nothing.
    for at in range(len(before) - 1, max(opening, len(before) - _NEAR), -1):
        if tokenizer.parts(*before[at - 1 : at + 1]) and _alone(before, at, tokenizer):
            opened, opening = sum(end <= at for _, _, end in tokens), at
            break
    lead = before[opening:] if opened else tokenizer.opening(before)
    closing = control_at = min((first - rest for _, first, _ in controls if first >= rest), default=None)
    if early or control_at is None:
        apart = (at for at, pair in enumerate(pairwise(after[:control_at]), start=1) if tokenizer.parts(*pair))
        closing = next((at for at in apart if _ended(before, opening, lead, after, at, tokenizer)), control_at)
    if closing is None:
        raise TemplateError(
            "the prompt has no control token after the content, nor a place where the tokenizer always splits, so "
            "the verdict could merge with the text"
        )
    ends = [
        Piece(before[control:]),
        *(part for piece in inner for part in _apart(piece, tokenizer)),
        Piece(after[:closing]),
    ]
    span = [Piece(lead), *ends[1:]]
    return Cut(
        hard=(*bos, *(id for id, _, _ in tokens[:opened])),
        # The opening text as it stands alone; where content merges with its end, the runtime masks those columns.
        lead=tuple(tokenizer.content_ids(lead)),
        span=tuple(piece for piece in span if piece.role or piece.text),
        tail=tuple(id for id, first, _ in tokens if first >= rest + closing),
        closing=closing,
        around=tuple(piece.text for piece in ends if not piece.ids),
    )


def _alone(before: str, at: int, tokenizer: CheckpointTokenizer) -> bool:
    """Whether the text from `at` on, with whatever comes behind it, has the tokens that it has within the whole."""
    for following in _FOLLOWING:
        text = before + following
        within = [id for id, first, _ in tokenizer.encode(text) if first >= at]
        if not tokenizer.splits(text, at) or tokenizer.content_ids(text[at:]) != within:
            return False
    return True


def _ended(before: str, opening: int, lead: str, after: str, at: int, tokenizer: CheckpointTokenizer) -> bool:
    """Whether the span, ended at `at`, has on its own the tokens that it has within the whole."""
    for probe in PROBES:
        text, end = before + probe + after, len(before) + len(probe) + at
        within = [id for id, first, last in tokenizer.encode(text) if first >= opening and last <= end]
        if not tokenizer.splits(text, end) or tokenizer.content_ids(lead + probe + after[:at]) != within:
            return False
    return True


def _apart(piece: Piece, tokenizer: CheckpointTokenizer) -> list[Piece]:
    """Text between two contents, its control tokens apart from it."""
    if piece.role:
        return [piece]
    found, at = [], 0
    for id, first, end in tokenizer.encode(piece.text):
        if id in tokenizer.reserved:
            found += [Piece(piece.text[at:first]), Piece(piece.text[first:end], ids=(id,))]
            at = end
    return [*found, Piece(piece.text[at:])]
