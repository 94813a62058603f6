"""What a check returns."""

from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from .format.codec import encode
from .format.manifest import Mode


@dataclass(frozen=True)
class Field:
    """The answer of one field.

    Where some of its labels are unsafe, score is the probability of those, and margin the best safe logit minus the
    best unsafe one. Else score is the probability of the label, and margin its logit's lead over the runner-up.
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
    """Tokens of a check, over all windows and forms."""

    prefix: int
    """Taken from the baked prefix; in a session also from the text so far."""
    run: int
    """Run by the engine."""


@dataclass(frozen=True)
class Milliseconds:
    """Where the time of a check went, in milliseconds."""

    tokenize: float
    """Tokenizing, and laying the text out in passes."""
    run: float
    """The passes themselves; "pass" in JSON."""
    total: float
    """All of it, the queue included."""
    queue: float = 0.0
    """Waiting for a turn, of what was submitted."""


@dataclass(frozen=True)
class Failure:
    """Why nothing was decided: an error's `kind`, its message, and what the caller wanted done in that case."""

    kind: str
    """The error's `kind`: "overloaded", "deadline", "bad_text"."""
    message: str
    """The error's message, which never quotes the text."""
    on_error: Literal["block", "allow"]
    """What the caller chose for a failure."""


@dataclass(frozen=True)
class Verdict:
    """The answer of a guard. It has no truth value: `if verdict:` raises. Read `safe`."""

    safe: bool
    """Whether no deciding field of any window, form and policy is unsafe."""
    label: str
    """The answer of `field`: "UNSAFE-S4", "yes"."""
    field: str
    """The field that decided: of several deciding fields the worst."""
    categories: tuple[str, ...]
    """What the answers on the way to an unsafe verdict mean: "crime". Empty where the verdict is safe."""
    score: float
    """Probability of unsafe in `field`, from 0 to 1: a softmax over its labels."""
    margin: float
    """The best safe logit of `field` minus the best unsafe one: positive where argmax says safe."""
    fields: dict[str, Field | None]
    """Every field of the mode, of the policies that were judged; None where the answer leaves the field out."""
    openai_scores: dict[str, float]
    """For each of OpenAI's categories that an unsafe answer can name, the probability of an answer that is unsafe and
    names it; of several windows, forms and policies the highest."""
    mode: Mode
    """What was judged: the user's text ("prompt"), or the assistant's reply to it ("response")."""
    windows: int
    """Passes over an over-long text, of which this verdict is the worst."""
    truncated: bool
    """Whether text was left out, as the caller asked by long_text="truncate"."""
    normalized: bool
    """Whether the text is not in its plain form (NFC, no invisible characters), so that both forms were judged."""
    suspicious_literals: tuple[str, ...]
    """Pieces of the guard's own prompt that stand in the text. They were judged as text."""
    tokens: Tokens
    """Tokens taken from the baked prefix, and tokens run."""
    ms: Milliseconds
    """Where the time went."""
    failure: Failure | None = None
    """Why nothing was decided, where `on_error` turned an error into this verdict."""

    def __bool__(self) -> NoReturn:
        raise TypeError("a verdict has no truth value; read its attribute `safe`")

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists, the form that `guardpass check --json` prints."""
        body: dict[str, Any] = encode(self)
        times = body["ms"]
        body["ms"] = {
            "tokenize": times["tokenize"],
            "pass": times["run"],
            "queue": times["queue"],
            "total": times["total"],
        }
        return body
