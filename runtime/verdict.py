"""The verdict: the result of a check."""

from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from .format.codec import encode
from .format.manifest import Mode


@dataclass(frozen=True)
class Field:
    """The answer of one field.

    If the field has safe and unsafe labels, score is the probability of the unsafe ones, and margin is the best safe
    logit minus the best unsafe one. Else score is the probability of the label, and margin is the lead of its logit
    over the second best.
    """

    label: str
    """The answer: "S2", "yes"."""
    score: float
    """A probability, from 0 to 1."""
    margin: float
    """A difference of logits."""
    labels: dict[str, float]
    """The probability of each label, by the model's own softmax (temperature 1)."""


@dataclass(frozen=True)
class Tokens:
    """Token counts of a check, over all windows and forms."""

    prefix: int
    """Tokens with stored keys and values: the baked prefix, and in a session the unchanged text."""
    run: int
    """Tokens that the engine computed."""


@dataclass(frozen=True)
class Milliseconds:
    """The duration of a check by stage, in milliseconds."""

    tokenize: float
    """Tokenizing, and planning the passes."""
    run: float
    """The passes; "pass" in JSON."""
    total: float
    """The whole check, the queue included."""
    queue: float = 0.0
    """The wait of a submitted request."""


@dataclass(frozen=True)
class Failure:
    """The failure that an UNDECIDED verdict stands for."""

    kind: str
    """The error's `kind`: "overloaded", "deadline", "bad_text"."""
    message: str
    """The error's message, which never quotes the text."""
    on_error: Literal["block", "allow"]
    """The `on_error` of the caller."""


@dataclass(frozen=True)
class Verdict:
    """The answer of a guard. It has no truth value: `if verdict:` raises. Read `safe`."""

    safe: bool
    """Whether no deciding field of any window, form and policy is unsafe."""
    label: str
    """The answer of `field`: "UNSAFE-S4", "yes"."""
    field: str
    """The deciding field; of several, the worst."""
    categories: tuple[str, ...]
    """The categories of an unsafe verdict: "crime". Empty if the verdict is safe."""
    score: float
    """Probability of unsafe in `field`, from 0 to 1: a softmax over its labels."""
    margin: float
    """The best safe logit of `field` minus the best unsafe one: positive if argmax is safe."""
    fields: dict[str, Field | None]
    """Every field of the judged policies; None if the answer omits the field."""
    openai_scores: dict[str, float]
    """By OpenAI category, the probability of an unsafe answer that names it: the highest of all windows, forms and
    policies. Categories that no answer names are absent."""
    mode: Mode
    """The judged text: the user's ("prompt"), or the assistant's reply to it ("response")."""
    windows: int
    """The number of windows of the text. The verdict is that of the worst one."""
    truncated: bool
    """Whether text was cut off, by long_text="truncate"."""
    normalized: bool
    """Whether the text differs from its plain form (NFC, no invisible characters), so that both were judged."""
    suspicious_literals: tuple[str, ...]
    """Pieces of the guard's own prompt that occur in the text. They were judged as text."""
    tokens: Tokens
    """Reused and computed tokens."""
    ms: Milliseconds
    """The duration by stage."""
    failure: Failure | None = None
    """The failure, if `on_error` turned an error into this verdict."""

    def __bool__(self) -> NoReturn:
        raise TypeError("a verdict has no truth value; read its attribute `safe`")

    def to_json(self) -> dict[str, Any]:
        """The verdict as plain dicts and lists, as `guardpass check --json` prints it."""
        body: dict[str, Any] = encode(self)
        times = body["ms"]
        body["ms"] = {
            "tokenize": times["tokenize"],
            "pass": times["run"],
            "queue": times["queue"],
            "total": times["total"],
        }
        return body
