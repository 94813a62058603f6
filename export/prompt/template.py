"""Take a checkpoint's chat template apart into static text and content, exactly or not at all."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, get_args

from guardpass.errors import TemplateError
from guardpass.format.manifest import Piece, Role, Strip
from guardpass.tokenizer import assemble, strip

from ..checkpoint.files import Folder
from ..checkpoint.special_tokens import SPECIAL_TOKENS, special_tokens, tokenizer_config
from ..checkpoint.template_files import template_text
from ..families.schema import Speaker
from .probes import PROBES

_SENTINELS: dict[Role, str] = {"prompt": "qzJ7promptW4xk", "response": "vK9responseY2bq"}
# As long, and other text: what a template renders of both alike does not hold what was said.
_TWINS: dict[Role, str] = {role: text[::-1] for role, text in _SENTINELS.items()}
_SPACE = " \n\t\u3000"
_SECONDS = 30.0


Conversation = Sequence[tuple[Speaker, Sequence[Piece]]]


class Template:
    """A checkpoint's chat template and the variables transformers renders it with.

    date: what today is to a template that asks, as YYYY-MM-DD; without it such a template is refused.
    """

    def __init__(self, checkpoint: Folder, date: str | None = None) -> None:
        config = tokenizer_config(checkpoint)
        self._checkpoint = checkpoint
        self._compared: set[tuple[int, bool]] = set()
        self.source = template_text(checkpoint)
        if self.source is None:
            raise TemplateError(
                "the checkpoint has no chat template (neither chat_template.jinja nor chat_template in "
                "tokenizer_config.json), and the prompt its weights were trained on cannot be guessed"
            )
        # Where a key is absent transformers takes its tokenizer class's default; null means none, as it does there.
        if not _encodable(self.source):
            raise TemplateError("the chat template has lone surrogates, which no tokenizer can encode")
        self._variables = {name: _token(value) for name, value in special_tokens(config).items()}
        self._unknown = [name for name in SPECIAL_TOKENS if name not in config]
        self._date = date

    def pieces(self, conversation: Conversation, generation_prompt: bool) -> tuple[Piece, ...]:
        """The prompt of a conversation as static text and content, proved on pairs of probes.

        Messages are given as text. A template that raises on text, or prints none of it, is given lists of typed parts;
        one that prints another prompt for those is noted. Raises TemplateError where rendering shows that no such
        pieces exist.
        """
        text, parts = (
            partial(self._render, typed=typed, generation_prompt=generation_prompt) for typed in (False, True)
        )
        try:
            pieces = take_apart(conversation, text)
        except _Unprinted as refused:
            try:
                return take_apart(conversation, parts)
            except TemplateError as also:
                other = "" if str(also) == str(refused) else f"; given as a list of parts: {also}"
                raise TemplateError(f"{refused}{other}") from None
        self._compare(conversation, pieces, parts, generation_prompt)
        return pieces

    def _compare(
        self, conversation: Conversation, pieces: Sequence[Piece], parts: "Render", generation_prompt: bool
    ) -> None:
        """Notes a template that prints content given as parts, and another prompt around it; once for each mode."""
        mode = (len(conversation), generation_prompt)
        if mode in self._compared:
            return
        self._compared.add(mode)
        sentinels = {part.role: _SENTINELS[part.role] for _, message in conversation for part in message if part.role}
        try:
            (rendered,) = parts(conversation, [sentinels])
        except TemplateError:
            return
        if rendered != assemble(pieces, sentinels) and all(text in rendered for text in sentinels.values()):
            self._checkpoint.note(
                "the chat template prints another prompt for messages given as lists of parts; the guard's is that of "
                "messages given as text"
            )

    def _render(
        self, conversation: Conversation, contents: Sequence[dict[Role, str]], *, typed: bool, generation_prompt: bool
    ) -> list[str]:
        """The conversation with each of the contents, rendered in the sandbox process. Raises TemplateError."""
        request = {
            "template": self.source,
            "variables": self._variables,
            "unknown": self._unknown,
            "date": self._date,
            "typed": typed,
            "generation_prompt": generation_prompt,
            "conversations": [
                [
                    {"role": speaker, "content": [(bool(p.role), texts[p.role] if p.role else p.text) for p in parts]}
                    for speaker, parts in conversation
                ]
                for texts in contents
            ],
        }
        script = Path(__file__).with_name("sandbox.py")
        try:
            child = subprocess.run(
                [sys.executable, "-I", str(script)],
                input=json.dumps(request),
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
            report = json.loads(child.stdout)
        except subprocess.TimeoutExpired:
            raise TemplateError(f"the chat template did not end within {_SECONDS:.0f} s") from None
        except ValueError:
            # A signal stopped it (negative code): the limits, or a stack too deep for the interpreter.
            reason = child.stderr.strip().rpartition("\n")[2] if child.returncode > 0 else "time or memory used up"
            raise TemplateError(f"the chat template was stopped: {reason}") from None
        printed = _printed(contents[0], report["texts"][:2])
        if "error" in report:
            raise (TemplateError if printed else _Unprinted)(f"the chat template cannot be rendered: {report['error']}")
        if report["reads"]:
            raise (TemplateError if printed else _Unprinted)(
                f"the chat template looks at the text it is given ({', '.join(report['reads'])}), so its prompt is "
                "not static text around the content; only printing and trimming can be reproduced"
            )
        texts: list[str] = report["texts"]
        return texts


class _Unprinted(TemplateError):
    """The template raises on messages given as text, or prints nothing of them: it may expect lists of parts."""


Render = Callable[[Conversation, Sequence[dict[Role, str]]], list[str]]


def take_apart(conversation: Conversation, render: Render) -> tuple[Piece, ...]:
    """Find the pieces by rendering sentinels, and prove them by rendering probes. Raises TemplateError."""
    roles = [part.role for _, parts in conversation for part in parts if part.role]
    sentinels = {role: _SENTINELS[role] for role in roles}
    spaced = {role: f"{_SPACE}{_SENTINELS[role]}{_SPACE}" for role in roles}
    contents = [
        sentinels,
        {role: _TWINS[role] for role in roles},
        *({**sentinels, role: spaced[role]} for role in roles),
    ]
    contents += [{**sentinels, role: ""} for role in roles]
    plain, twin, *others = render(conversation, contents)
    trimmed, emptied = others[: len(roles)], others[len(roles) :]
    pieces: list[Piece] = []
    rest = plain
    for role, stripped in zip(roles, trimmed, strict=True):
        static, found, rest = rest.partition(_SENTINELS[role])
        if not found or _SENTINELS[role] in rest:
            raise (TemplateError if _printed(sentinels, [plain, twin]) else _Unprinted)(
                f"the chat template prints the {role} {plain.count(_SENTINELS[role])} times, or out of order; "
                "expected once, and the user's text before the assistant's"
            )
        pieces += [Piece(static), Piece("", role, _strip_of(role, spaced[role], plain, stripped))]
    pieces.append(Piece(rest))
    for role, empty in zip(roles, emptied, strict=True):
        # A message that is trimmed as a whole loses, with its content, white space before it.
        if assemble(pieces, {**sentinels, role: ""}) != empty:
            pieces = [replace(p, strip="through") if p.role == role and p.strip == "right" else p for p in pieces]

    few = PROBES[:12] if len(roles) > 1 else PROBES
    probes: list[dict[Role, str]] = [dict(zip(roles, texts, strict=True)) for texts in product(few, repeat=len(roles))]
    probes += [dict.fromkeys(roles, text) for text in PROBES]
    try:
        shown = render(conversation, probes)
    except _Unprinted as error:  # of some probe, where the sentinels were printed: text is what the template takes
        raise TemplateError(str(error)) from None
    for probe, rendered in zip(probes, shown, strict=True):
        if assemble(pieces, probe) != rendered:
            raise TemplateError(
                f"the chat template changes its content in a way that is not trimming: given {probe!r:.200} "
                f"it prints {rendered!r:.300}"
            )
    return tuple(pieces)


def _printed(sentinels: Mapping[Role, str], rendered: Sequence[str]) -> bool:
    """Whether a template, given sentinels and then their twins, printed any of them, in whatever form."""
    return len(set(rendered)) > 1 or any(text and text in shown for shown in rendered for text in sentinels.values())


def _strip_of(role: Role, spaced: str, plain: str, rendered: str) -> Strip:
    for how in get_args(Strip):  # "through" last: it differs from "right" on other contents
        if rendered == plain.replace(_SENTINELS[role], strip(spaced, how)):
            result: Strip = how
            return result
    raise TemplateError(
        f"the chat template treats white space around the {role} in an unknown way: it prints {rendered!r:.300}"
    )


def _token(value: Any) -> str:
    text = value.get("content") if isinstance(value, dict) else value
    if not isinstance(text, str) or not _encodable(text):
        raise TemplateError(f"tokenizer_config.json has a special token {value!r:.80}, expected text")
    return text


def _encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
