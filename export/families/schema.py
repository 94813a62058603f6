"""What a family is: how a published guard is prompted, what it may answer, and what its answers mean."""

from collections.abc import Collection
from dataclasses import dataclass
from string import Formatter
from typing import Literal, get_args

from guardpass.format.manifest import Mode, Piece, Role, Severity

from .grammar import Grammar, GrammarError, parse

Speaker = Literal["system", "user", "assistant"]
ROLES: dict[Mode, tuple[Role, ...]] = {"prompt": ("prompt",), "response": ("prompt", "response")}
_POLICY = ("title", "description")
_FIELDS = 64


@dataclass(frozen=True)
class Answer:
    """One answer: its text as the checkpoint writes it, and what that means."""

    text: str
    severity: Severity = "safe"
    category: str | None = None
    openai: str | None = None  # the nearest of the 13 categories of OpenAI's moderation API, if any
    label: str | None = None  # what verdicts call it, where that is not the text

    @property
    def name(self) -> str:
        """ "<UNSAFE-S4>" is UNSAFE-S4, " yes" is yes."""
        return self.label or self.text.strip().strip("<>") or repr(self.text)


@dataclass(frozen=True)
class Question:
    """A field and the answers it may get."""

    field: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Policy:
    """A rule to judge by, of a family whose prompt spells it out. Its field is called `name`."""

    name: str
    title: str
    description: str
    category: str | None = None
    openai: str | None = None


@dataclass(frozen=True)
class Message:
    """What one speaker says. {prompt} and {response} stand for content, {title} and {description} for a policy's."""

    role: Speaker
    text: str


@dataclass(frozen=True)
class Prompt:
    """How one mode is prompted and answered.

    raw: the messages' text as it stands, behind a BOS token, instead of the checkpoint's chat template.
    generation_prompt: whether the template opens the assistant's turn. answer: see grammar.py.
    decides: the fields whose unsafe answers make the verdict; none named: every field that has such answers.
    """

    messages: tuple[Message, ...]
    answer: str
    raw: bool = False
    generation_prompt: bool = True
    decides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """Guards that share prompts and answers.

    checkpoints: published names. marks: lines that the chat templates of this family alone contain.
    asked: the policies judged where the caller names none.
    """

    name: str
    modes: dict[Mode, Prompt]
    questions: tuple[Question, ...]
    checkpoints: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    policies: tuple[Policy, ...] = ()
    asked: tuple[str, ...] = ()


def decides(family: Family, prompt: Prompt) -> tuple[str, ...]:
    """The fields that make a text unsafe: as the row says, or every one that has an unsafe answer."""
    return prompt.decides or tuple(
        question.field for question in family.questions if any(answer.severity != "safe" for answer in question.answers)
    )


def parts(message: Message, policy: Policy | None) -> tuple[Piece, ...]:
    """A message as static text and content."""
    texts = {"title": policy.title, "description": policy.description} if policy else {}
    roles: dict[str | None, Role] = {"prompt": "prompt", "response": "response"}
    pieces: list[Piece] = []
    for text, name, _, _ in Formatter().parse(message.text):
        pieces.append(Piece(text + texts.get(name or "", "")))
        if name in roles:
            pieces.append(Piece("", roles[name]))
    return tuple(piece for piece in pieces if piece.text or piece.role)


def validate(family: Family) -> None:
    """Raises ValueError, "path: what is wrong", for a row that contradicts itself."""
    if not family.name.strip():
        raise ValueError(f"name: expected a name, found {family.name!r}")
    fields = [question.field for question in family.questions]
    if len(fields) > _FIELDS:
        raise ValueError(f"questions: expected at most {_FIELDS}, found {len(fields)}")
    _distinct("questions", ".field", fields)
    for number, question in enumerate(family.questions):
        _question(f"questions[{number}]", question)
    known = get_args(Mode)
    for mode in family.modes or ("",):
        if mode not in known:
            raise ValueError(f"modes{mode and '.'}{mode}: expected {' and/or '.join(known)}, found {mode or 'none'}")
    _policies(family)
    used: set[str] = set()
    for mode, prompt in family.modes.items():
        used |= _prompt(family, mode, prompt)
    for number, field in enumerate(fields):
        if field not in used:
            raise ValueError(
                f"questions[{number}]: no mode's answer has a slot of {field}; use the question or remove it"
            )


def _question(where: str, question: Question) -> None:
    _named(f"{where}.field", question.field)
    if len(question.answers) < 2:
        raise ValueError(f"{where}.answers: expected two or more, found {len(question.answers)}")
    for number, answer in enumerate(question.answers):
        if not answer.text:
            raise ValueError(f"{where}.answers[{number}].text: expected text, found ''")
    # Names are what verdicts show, so " yes" and "yes" would look alike.
    _distinct(f"{where}.answers", ".text", [answer.name for answer in question.answers])


def _policies(family: Family) -> None:
    names = [policy.name for policy in family.policies]
    for number, policy in enumerate(family.policies):
        _named(f"policies[{number}].name", policy.name)
        for key in _POLICY:
            if not getattr(policy, key).strip():
                raise ValueError(f"policies[{number}].{key}: expected text, found {getattr(policy, key)!r}")
    _distinct("policies", ".name", names)
    _distinct("asked", "", list(family.asked))
    if names and len(family.questions) != 1:
        raise ValueError(f"policies: expected one question, put by each of them, found {len(family.questions)}")
    if names and not family.asked:
        raise ValueError("policies: expected, in `asked`, the names of those that are judged by default")
    for number, name in enumerate(family.asked):
        if name not in names:
            raise ValueError(f"asked[{number}]: expected the name of a policy, one of {names}, found {name!r}")


def _prompt(family: Family, mode: Mode, prompt: Prompt) -> set[str]:
    """Check one mode; returns the fields that its answer uses."""
    where = f"modes.{mode}"
    placeholders: list[str] = []
    for number, message in enumerate(prompt.messages):
        try:
            placeholders += _placeholders(message.text)
        except ValueError as error:
            raise ValueError(f"{where}.messages[{number}].text: {error}; a brace itself is doubled") from None
    expected = [*ROLES[mode], *(_POLICY if family.policies else ())]
    if sorted(placeholders) != sorted(expected):
        raise ValueError(
            f"{where}.messages: expected each of {expected} once, in braces, found {placeholders}; "
            "a brace itself is doubled"
        )
    if prompt.raw and len(prompt.messages) != 1:
        raise ValueError(f"{where}.messages: expected one, as the prompt is raw, found {len(prompt.messages)}")
    try:
        grammar = parse(prompt.answer, [(q.field, [a.text for a in q.answers]) for q in family.questions])
    except GrammarError as error:
        raise ValueError(f"{where}.answer: {error}") from None
    for number, field in enumerate(prompt.decides):
        if field not in grammar.fields:
            raise ValueError(
                f"{where}.decides[{number}]: expected a field of the answer, one of {sorted(grammar.fields)}, "
                f"found {field!r}"
            )
    _decidable(family, grammar, decides(family, prompt), where)
    return grammar.fields


def _decidable(family: Family, grammar: Grammar, unsafe: Collection[str], where: str) -> None:
    """Whatever the guard answers, some field has decided, and could have decided otherwise."""
    deciding = [field for field in unsafe if field in grammar.fields]
    if not deciding:
        raise ValueError(f"{where}.answer: no field of it has an unsafe answer; expected at least one")
    for path in grammar.paths():
        if not any(field in deciding for field, _ in path.decisions):
            raise ValueError(
                f"{where}.answer: the answer {path.text!r:.80} says neither safe nor unsafe; expected a slot of "
                f"{' or '.join(deciding)} in every answer"
            )
    answers = {question.field: question.answers for question in family.questions}
    for slot in grammar.slots:
        kinds = {answers[slot.field][alternative.answer].severity for alternative in slot.alternatives}
        if slot.field in deciding and not {"safe", "unsafe"} <= kinds:
            raise ValueError(
                f"{where}.answer: {slot.field} decides, and a slot of it has the answers {sorted(kinds)} alone; "
                "expected a safe and an unsafe one"
            )


def _placeholders(text: str) -> list[str]:
    """What stands in braces; a conversion or format, which nothing here knows, is shown as part of the name."""
    return [
        name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
        for _, name, form, conversion in Formatter().parse(text)
        if name is not None
    ]


def _named(path: str, name: str) -> None:
    if not name.isidentifier():
        raise ValueError(f"{path}: expected letters, digits and underscores, a letter first, found {name!r}")


def _distinct(path: str, key: str, names: list[str]) -> None:
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ValueError(f"{path}[{number}]{key}: {name!r} is there already; expected each once")
