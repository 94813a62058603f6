"""From a mode's pieces to prefix, span and tree, in token ids."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from guardpass.errors import CheckpointError, TemplateError
from guardpass.manifest import Label, Mode, ModeSpec, Piece, Prefix, Slot, Tree

from .families import Family
from .template import PROBES, Template, assemble, take_apart
from .tokenizer import CheckpointTokenizer

_ROLES: dict[Mode, tuple[Mode, ...]] = {"prompt": ("prompt",), "response": ("prompt", "response")}


@dataclass(frozen=True)
class Prompts:
    """Everything of a guard that is token ids."""

    labels: tuple[Label, ...]
    prefix: Prefix
    modes: dict[str, ModeSpec]
    reserved: tuple[int, ...]
    literals: tuple[str, ...]


def build_prompts(family: Family, template: Template, tokenizer: CheckpointTokenizer) -> Prompts:
    """Turn the checkpoint's template into static ids for every mode of the family.

    Raises TemplateError or CheckpointError where the result would not equal the template on every text.
    """
    labels = tuple(_labels(family, tokenizer))
    trie = _Trie()
    modes: dict[str, ModeSpec] = {}
    literals = {token.content: None for token in tokenizer.added.values()}
    for mode in family.modes:
        pieces = take_apart(template, _ROLES[mode])
        ids, lead, span, tail = _cut(pieces, tokenizer)
        slot = Slot(node=len(tail) - 1, field=family.field, labels=tuple(range(len(labels))))
        tree = Tree(tuple(tail), tuple(range(-1, len(tail) - 1)), (slot,))
        modes[mode] = ModeSpec(trie.add(ids), lead, span, tree)
        _prove(pieces, ids[: len(ids) - lead], span, tail, tokenizer)
        literals |= dict.fromkeys(_markers(span))
    return Prompts(
        labels=labels,
        prefix=Prefix(tuple(trie.tokens), tuple(trie.parents)),
        modes=modes,
        reserved=tuple(sorted({*tokenizer.added, *(label.id for label in labels)})),
        literals=tuple(literals),
    )


def _labels(family: Family, tokenizer: CheckpointTokenizer) -> list[Label]:
    labels = []
    for answer in family.answers:
        ids = tokenizer.split(answer.token)
        if len(ids) != 1 or ids[0] != tokenizer.full.token_to_id(answer.token):
            split = [tokenizer.full.id_to_token(id) for id in ids]
            raise CheckpointError(
                f"{answer.token!r} of family {family.name} is not one token here, it splits into {split}; "
                "export the guard's own checkpoint, or name the right --family"
            )
        name = answer.token.strip("<>")
        labels.append(Label(name, answer.token, ids[0], answer.unsafe, answer.category, answer.openai))
    return labels


def _cut(
    pieces: Sequence[Piece], tokenizer: CheckpointTokenizer
) -> tuple[list[int], int, tuple[Piece, ...], list[int]]:
    """(prefix ids, how many of them are lead, span pieces, tree ids).

    The span runs from the last added token before the content to the first one after it: an added token is
    cut out before any merge, so nothing can merge across it.
    """
    before, inner, after = pieces[0].text, pieces[1:-1], pieces[-1].text
    if any(tokenizer.added_ranges(piece.text) for piece in inner if not piece.role):
        raise TemplateError("the chat template has control tokens between prompt and reply, which is not supported")
    opening = max((end for _, end in tokenizer.added_ranges(before)), default=0)
    closing = min((start for start, _ in tokenizer.added_ranges(after)), default=None)
    if closing is None:
        raise TemplateError(
            "the chat template has no control token after the content, so the verdict could merge with the text"
        )
    span = (Piece(before[opening:]), *inner, Piece(after[:closing]))
    hard = tokenizer.split(before[:opening])
    # The opening text as it stands alone; where content merges with its end, the runtime masks those columns.
    lead = tokenizer.content_ids(before[opening:])
    span = tuple(piece for piece in span if piece.role or piece.text)
    return hard + lead, len(lead), span, tokenizer.split(after[closing:])


def _prove(
    pieces: Sequence[Piece],
    hard: list[int],
    span: Sequence[Piece],
    tail: list[int],
    tokenizer: CheckpointTokenizer,
) -> None:
    """prefix . span . tree equals the tokenized prompt on every probe (none of which spells an added token)."""
    roles = [piece.role for piece in pieces if piece.role]
    for text in PROBES:
        texts = dict.fromkeys(roles, text)
        expected = tokenizer.split(assemble(pieces, texts))
        if hard + tokenizer.content_ids(assemble(span, texts)) + tail != expected:
            raise TemplateError(
                f"the tokenizer joins the template and the text {text!r:.60} in a way that prefix, span and tree "
                "cannot reproduce (a control token that strips white space around it, or a normalizer)"
            )


def _markers(span: Sequence[Piece]) -> list[str]:
    """Plain-text marks of the prompt, which in a user's text can only be told by looking for them."""
    found: list[str] = []
    for piece in span:
        found += re.findall(r"</?[^<>\s]+>", piece.text) or [line.strip() for line in piece.text.splitlines()]
    return [mark for mark in found if mark]


class _Trie:
    """Prefix chains of all modes, shared where they agree."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.parents: list[int] = []

    def add(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Columns of the chain, root first."""
        columns: list[int] = []
        for token in ids:
            parent = columns[-1] if columns else -1
            known = (n for n, at in enumerate(zip(self.tokens, self.parents, strict=True)) if at == (token, parent))
            column = next(known, len(self.tokens))
            if column == len(self.tokens):
                self.tokens.append(token)
                self.parents.append(parent)
            columns.append(column)
        return tuple(columns)
