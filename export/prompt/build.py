"""From a family's prompts and answers to prefix, span and tree, in token ids."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from guardpass.errors import CheckpointError, TemplateError
from guardpass.format.manifest import Label, ModeSpec, Piece, Prefix, Role
from guardpass.tokenizer import assemble, span_ids

from ..checkpoint.files import Folder
from ..checkpoint.tokenizer import CheckpointTokenizer
from ..families.grammar import Path, parse
from ..families.schema import Answer, Family, Policy, Prompt, decides, parts
from .answer_tree import Answered, Branch, TreeBuilder
from .probes import PROBES
from .split import Split, split_prompt
from .template import Template

_SIDES = get_args(Role)
_TAG = r"</?[^<>\s]+>"

LabelOf = dict[tuple[Policy | None, str, int], int]  # by policy, field and answer, the place among the labels


@dataclass(frozen=True)
class Prompts:
    """Everything of a guard that is token ids."""

    labels: tuple[Label, ...]
    columns: tuple[int, ...]
    prefix: Prefix
    modes: dict[str, ModeSpec]
    reserved: dict[str, int]
    literals: tuple[str, ...]


def build_prompts(family: Family, source: Folder, tokenizer: CheckpointTokenizer, date: str | None = None) -> Prompts:
    """Turn the family's prompts, and the checkpoint's template where they go through it, into static ids.

    Raises TemplateError or CheckpointError where the result would not equal the reference on every text.
    """
    labels, label_of = _labels(family)
    _check_tokens(family, tokenizer)
    template = None if all(prompt.raw for prompt in family.modes.values()) else Template(source, date)
    trie = _Trie()
    modes: dict[str, ModeSpec] = {}
    columns: list[int] = []
    marks: dict[str, None] = {}
    for mode, prompt in family.modes.items():
        laid = [_lay(family, prompt, policy, template, tokenizer, label_of) for policy in family.policies or (None,)]
        if len({(prompt.split.hard, prompt.split.span) for prompt in laid}) > 1:
            raise TemplateError("policies stand before the text that is judged; expected them behind it")
        split = laid[0].split
        builder = TreeBuilder(labels, columns, tokenizer.full.id_to_token, tokenizer.stops)
        tree = builder.build([prompt.branch for prompt in laid])
        fields = dict.fromkeys(slot.field for slot in tree.slots)
        deciding = [policy.name for policy in family.policies] or decides(family, prompt)
        modes[mode] = ModeSpec(
            prefix=trie.add(split.hard + split.lead),
            lead=len(split.lead),
            span=split.span,
            tree=tree,
            decides=tuple(field for field in fields if field in deciding),
            asked=family.asked,
            steps=builder.steps,
        )
        marks |= dict.fromkeys(_marks(laid[-1].pieces, split.around))
    return Prompts(
        labels=labels,
        columns=tuple(columns),
        prefix=Prefix(tuple(trie.tokens), tuple(trie.parents)),
        modes=modes,
        reserved={token.content: id for id, token in tokenizer.reserved.items()},
        literals=tuple(marks),
    )


@dataclass(frozen=True)
class _Laid:
    """A prompt with one policy, or with none, laid into the template: its split, and its end with all answers."""

    pieces: tuple[Piece, ...]
    split: Split
    branch: Branch


def _lay(
    family: Family,
    prompt: Prompt,
    policy: Policy | None,
    template: Template | None,
    tokenizer: CheckpointTokenizer,
    label_of: LabelOf,
) -> _Laid:
    bos = [tokenizer.bos()] if prompt.raw else []
    pieces = _pieces(prompt, policy, template)
    split = split_prompt(pieces, bos, tokenizer, early=policy is not None)
    _prove(pieces, split, bos, tokenizer)
    questions = [(question.field, [answer.text for answer in question.answers]) for question in family.questions]
    answers: list[Answered] = []
    for path in _continued(parse(prompt.answer, questions).paths(), pieces):
        ids = _answer_ids(pieces, path.text, split, tokenizer)
        decisions = [
            (policy.name if policy else field, label_of[policy, field, number]) for field, number in path.decisions
        ]
        answers.append(Answered(ids, tuple(decisions)))
    return _Laid(pieces, split, Branch(len(split.tail), tuple(answers)))


def unbaked(prompts: Prompts) -> Prompts:
    """The same with nothing baked: every pass begins with the prefix itself, whose lead the span has anyway."""
    modes: dict[str, ModeSpec] = {}
    for name, mode in prompts.modes.items():
        hard = tuple(prompts.prefix.tokens[column] for column in mode.prefix[: len(mode.prefix) - mode.lead])
        span = (Piece("", ids=hard), *mode.span) if hard else mode.span
        modes[name] = replace(mode, prefix=(), lead=0, span=span)
    return replace(prompts, prefix=Prefix((), ()), modes=modes)


def _labels(family: Family) -> tuple[tuple[Label, ...], LabelOf]:
    """All labels, and their places by policy, field and answer."""
    labels: list[Label] = []
    label_of: LabelOf = {}
    for policy in family.policies or (None,):
        for question in family.questions:
            for number, answer in enumerate(question.answers):
                label_of[policy, question.field, number] = len(labels)
                labels.append(_label(answer, policy))
    return tuple(labels), label_of


def _check_tokens(family: Family, tokenizer: CheckpointTokenizer) -> None:
    """An answer in angle brackets, such as `<SAFE>`, has to be one token. Raises CheckpointError."""
    for text in (answer.text for question in family.questions for answer in question.answers):
        ids = tokenizer.split(text)
        if re.fullmatch(_TAG, text) and (ids != [tokenizer.full.token_to_id(text)] or ids[0] not in tokenizer.reserved):
            tokens = [tokenizer.full.id_to_token(id) for id in ids]
            raise CheckpointError(
                f"{text!r} of family {family.name} is not one token here, it splits into {tokens}; "
                "export the guard's own checkpoint, or name the right --family"
            )


def _label(answer: Answer, policy: Policy | None) -> Label:
    meaning = policy if policy and answer.severity != "safe" else answer
    return Label(answer.name, answer.text, answer.severity, meaning.category, meaning.openai)


def _pieces(prompt: Prompt, policy: Policy | None, template: Template | None) -> tuple[Piece, ...]:
    """The whole prompt as static text and content; static text stands first, last, and between contents."""
    conversation = [(message.role, parts(message, policy)) for message in prompt.messages]
    if template and not prompt.raw:
        return template.pieces(conversation, prompt.generation_prompt)
    pieces = [Piece("")]
    for part in conversation[0][1]:
        if part.role:
            pieces += [part, Piece("")]
        else:
            pieces[-1] = Piece(pieces[-1].text + part.text)
    return tuple(pieces)


def _continued(paths: Sequence[Path], pieces: Sequence[Piece]) -> list[Path]:
    """The answers as they go on from the prompt's end: one that ends with the answers' line breaks holds them."""
    first = paths[0].text
    space = first[: len(first) - len(first.lstrip("\n"))]
    drop = len(space) if pieces[-1].text.endswith(space) and all(path.text.startswith(space) for path in paths) else 0
    return [replace(path, text=path.text[drop:]) for path in paths]


def _answer_ids(pieces: Sequence[Piece], answer: str, split: Split, tokenizer: CheckpointTokenizer) -> tuple[int, ...]:
    """Token ids from the tree's first to the answer's last."""
    texts: dict[Role, str] = dict.fromkeys(_SIDES, "a")
    prompt = assemble(pieces, texts)
    start = len(prompt) - len(pieces[-1].text) + split.closing
    ids = tuple(id for id, first, _ in tokenizer.encode(prompt + answer) if first >= start)
    if ids[: len(split.tail)] != split.tail:
        raise TemplateError(
            f"the tokenizer joins the end of the prompt and the answer {answer!r:.40}, so that no decode could write "
            "it; expected a prompt that ends where a token ends"
        )
    return ids


def _prove(pieces: Sequence[Piece], split: Split, bos: Sequence[int], tokenizer: CheckpointTokenizer) -> None:
    """prefix . span . tree equals the tokenized prompt on every probe (none of which spells an added token)."""
    for text in PROBES:
        texts: dict[Role, str] = dict.fromkeys(_SIDES, text)
        expected = [*bos, *tokenizer.split(assemble(pieces, texts))]
        if [*split.hard, *span_ids(split.span, texts, tokenizer.content_ids), *split.tail] != expected:
            raise TemplateError(
                f"the tokenizer joins the template and the text {text!r:.60} in a way that prefix, span and tree "
                "cannot reproduce (a control token that strips white space around it, or a normalizer)"
            )


def _marks(pieces: Sequence[Piece], around: Sequence[str]) -> list[str]:
    """Plain-text marks of the prompt, which a user's text can imitate: they are found by a search alone.

    Tags of the whole prompt; and where the text around a content has none, its lines that are more than signs.
    """
    tags = [tag for piece in pieces for tag in re.findall(_TAG, piece.text)]
    lines = (line.strip() for text in around if not re.search(_TAG, text) for line in text.splitlines())
    return tags + [line for line in lines if any(character.isalpha() for character in line)]


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
            nodes = enumerate(zip(self.tokens, self.parents, strict=True))
            column = next((number for number, node in nodes if node == (token, parent)), len(self.tokens))
            if column == len(self.tokens):
                self.tokens.append(token)
                self.parents.append(parent)
            columns.append(column)
        return tuple(columns)
