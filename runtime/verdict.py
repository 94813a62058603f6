"""What a check returns."""

from dataclasses import dataclass
from typing import Any, Literal

from .format.codec import encode
from .format.manifest import Mode


@dataclass(frozen=True)
class Field:
    """What one field came to.

    Where some of its labels are unsafe, score is the probability of those, and margin the best safe logit minus the
    best unsafe one. Else score is the probability of the label, and margin its logit's lead over the runner-up.
    labels: the probability of each label, by the model's own softmax (temperature 1).
    """

    label: str
    score: float
    margin: float
    labels: dict[str, float]


@dataclass(frozen=True)
class Tokens:
    """Tokens of a check, over all windows: taken from the baked prefix (in a session also from the text so far), and
    run."""

    prefix: int
    run: int


@dataclass(frozen=True)
class Milliseconds:
    """Where the time of a check went; `run` is the passes themselves ("pass" in JSON), and total includes all."""

    tokenize: float
    run: float
    total: float
    queue: float = 0.0  # what was submitted waits for its turn


@dataclass(frozen=True)
class Failure:
    """Why nothing was decided: an error's `kind`, its message, and what the caller wanted done in that case."""

    kind: str
    message: str
    on_error: Literal["block", "allow"]


@dataclass(frozen=True)
class Verdict:
    """The answer of a guard.

    label, score, margin: those of `field`, which decided: of several deciding fields the worst. score: probability
    of unsafe. margin: positive where argmax says safe. categories: of every answer given on the way to an
    unsafe verdict. fields: every field of the mode (of the policies asked for); None where the answer leaves it out.
    openai_scores: for each of OpenAI's categories that an unsafe answer can name, the probability of an answer that is
    unsafe and names it; of several windows and policies the highest.
    windows: passes over an over-long text, of which this is the worst. truncated: text was left out, as the caller
    asked. normalized: the text is not in its plain form (NFC, no invisible characters), so that form was judged as
    well, and the worse counts. suspicious_literals: pieces of the guard's own prompt found in the text; they were
    judged as text.
    """

    safe: bool
    label: str
    field: str
    categories: tuple[str, ...]
    score: float
    margin: float
    fields: dict[str, Field | None]
    openai_scores: dict[str, float]
    mode: Mode
    windows: int
    truncated: bool
    normalized: bool
    suspicious_literals: tuple[str, ...]
    tokens: Tokens
    ms: Milliseconds
    failure: Failure | None = None

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
