"""What a family is: how a published guard is prompted, what it may answer, and what its answers mean."""

from dataclasses import dataclass
from string import Formatter
from typing import Literal, get_args

from guardpass.manifest import Mode, Piece, Role, Severity

from .grammar import GrammarError, parse

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

    @property
    def name(self) -> str:
        """ "<UNSAFE-S4>" is UNSAFE-S4, " yes" is yes."""
        return self.text.strip().strip("<>") or repr(self.text)


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
    generation_prompt: whether the template is asked to open the assistant's turn. answer: see grammar.py.
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
    asked: the policies judged where none are named.
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
    given = {"title": policy.title, "description": policy.description} if policy else {}
    roles: dict[str | None, Role] = {"prompt": "prompt", "response": "response"}
    pieces: list[Piece] = []
    for text, name, _, _ in Formatter().parse(message.text):
        pieces.append(Piece(text + given.get(name or "", "")))
        if name in roles:
            pieces.append(Piece("", roles[name]))
    return tuple(piece for piece in pieces if piece.text or piece.role)


def validate(family: Family) -> None:
    """Raises ValueError, "path: what is wrong", for a row that contradicts itself."""
    fields = [question.field for question in family.questions]
    _distinct("questions", fields)
    if len(fields) > _FIELDS:
        raise ValueError(f"questions: expected at most {_FIELDS}, found {len(fields)}")
    for number, question in enumerate(family.questions):
        where = f"questions[{number}]"
        if not question.field.isidentifier():
            raise ValueError(f"{where}.field: expected letters, digits and underscores, found {question.field!r}")
        _distinct(f"{where}.answers", [answer.text for answer in question.answers])
        _distinct(f"{where}.answers", [answer.name for answer in question.answers])
        if len(question.answers) < 2 or not all(answer.text for answer in question.answers):
            raise ValueError(f"{where}.answers: expected two or more, none of them empty")
    if not family.modes or not family.modes.keys() <= set(get_args(Mode)):
        raise ValueError(f"modes: expected {' and/or '.join(get_args(Mode))}, found {sorted(family.modes)}")
    _distinct("policies", [policy.name for policy in family.policies])
    if family.policies and (len(family.questions) > 1 or not family.asked):
        raise ValueError("policies: expected one question and, in `asked`, the policies judged by default")
    if not set(family.asked) <= {policy.name for policy in family.policies}:
        raise ValueError(f"asked: expected names of policies, found {list(family.asked)}")
    used: set[str] = set()
    for mode, prompt in family.modes.items():
        used |= _prompt(family, mode, prompt)
    unused = [field for field in fields if field not in used]
    if unused:
        raise ValueError(f"questions: no answer of any mode reaches the slots {unused}; remove them or use them")


def _prompt(family: Family, mode: Mode, prompt: Prompt) -> set[str]:
    """Check one mode; returns the fields that its answer uses."""
    where = f"modes.{mode}"
    placeholders: list[str] = []
    for number, message in enumerate(prompt.messages):
        try:
            placeholders += [name for _, name, _, _ in Formatter().parse(message.text) if name is not None]
        except ValueError as error:
            raise ValueError(f"{where}.messages[{number}].text: {error}; a brace itself is doubled") from None
    expected = [*ROLES[mode], *(_POLICY if family.policies else ())]
    if sorted(placeholders) != sorted(expected):
        raise ValueError(f"{where}.messages: expected each of {expected} once, in braces, found {placeholders}")
    if prompt.raw and len(prompt.messages) != 1:
        raise ValueError(f"{where}.messages: expected one, as the prompt is raw, found {len(prompt.messages)}")
    try:
        slots = parse(prompt.answer, [(q.field, [a.text for a in q.answers]) for q in family.questions]).fields
    except GrammarError as error:
        raise ValueError(f"{where}.answer: {error}") from None
    unsafe = decides(family, prompt)
    for field in prompt.decides:
        if field not in slots:
            raise ValueError(f"{where}.decides: expected fields of the answer, {sorted(slots)}, found {field!r}")
    for question in family.questions:
        kinds = {answer.severity for answer in question.answers}
        if question.field in unsafe and question.field in slots and ("safe" not in kinds or "unsafe" not in kinds):
            raise ValueError(f"{where}: {question.field} decides, and lacks a safe or an unsafe answer")
    if not set(unsafe) & slots:
        raise ValueError(f"{where}.answer: no slot of it can make a text unsafe; expected at least one")
    return set(slots)


def _distinct(path: str, names: list[str]) -> None:
    if len(set(names)) != len(names):
        raise ValueError(f"{path}: expected each once, found {names}")
