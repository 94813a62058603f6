"""The families: how a published guard may answer, and what its answers mean. One row each.

Categories are those of the model cards; `openai` is the nearest of OpenAI's 13 moderation categories, or none.
"""

from collections.abc import Callable
from dataclasses import dataclass

from guardpass.errors import CheckpointError, InputError
from guardpass.manifest import Mode


@dataclass(frozen=True)
class Answer:
    """A verdict token and its meaning."""

    token: str
    category: str | None = None
    openai: str | None = None

    @property
    def unsafe(self) -> bool:
        """Every answer that has a category is an unsafe one."""
        return self.category is not None


@dataclass(frozen=True)
class Family:
    """Guards that share modes and answers. Prompts come from the checkpoint's own template."""

    name: str
    checkpoints: tuple[str, ...]  # published names, on the hub under `kakaocorp/`
    modes: tuple[Mode, ...]
    field: str
    answers: tuple[Answer, ...]


FAMILIES = (
    Family(
        name="kanana-safeguard",
        checkpoints=("kanana-safeguard-8b",),
        modes=("prompt", "response"),
        field="verdict",
        answers=(
            Answer("<SAFE>"),
            Answer("<UNSAFE-S1>", "hate", "hate"),
            Answer("<UNSAFE-S2>", "harassment", "harassment"),
            Answer("<UNSAFE-S3>", "sexual content", "sexual"),
            Answer("<UNSAFE-S4>", "crime", "illicit"),
            Answer("<UNSAFE-S5>", "child sexual exploitation", "sexual/minors"),
            Answer("<UNSAFE-S6>", "suicide and self-harm", "self-harm"),
            Answer("<UNSAFE-S7>", "misinformation"),
        ),
    ),
    Family(
        name="kanana-safeguard-siren",
        checkpoints=("kanana-safeguard-siren-8b",),
        modes=("prompt",),
        field="verdict",
        answers=(
            Answer("<SAFE>"),
            Answer("<UNSAFE-I1>", "adult verification"),
            Answer("<UNSAFE-I2>", "professional advice"),
            Answer("<UNSAFE-I3>", "personal information"),
            Answer("<UNSAFE-I4>", "intellectual property"),
        ),
    ),
    Family(
        name="kanana-safeguard-prompt",
        checkpoints=("kanana-safeguard-prompt-2.1b",),
        modes=("prompt",),
        field="verdict",
        answers=(
            Answer("<SAFE>"),
            Answer("<UNSAFE-A1>", "prompt injection"),
            Answer("<UNSAFE-A2>", "prompt leaking"),
        ),
    ),
)


def family(name: str) -> Family:
    """The row called `name`. Raises InputError, listing the rows, where there is none."""
    for row in FAMILIES:
        if row.name == name:
            return row
    raise InputError(f"unknown family {name!r}, expected one of: {_names(FAMILIES)}")


def detect(split: Callable[[str], list[int]]) -> Family:
    """The one family all of whose verdict tokens the tokenizer (`split`: text to ids) knows as single tokens.

    Raises CheckpointError, listing the families, where none or several fit.
    """
    fitting = [row for row in FAMILIES if _distinct([split(answer.token) for answer in row.answers])]
    if len(fitting) != 1:
        found = f"fits {_names(fitting)}" if fitting else "has the verdict tokens of no family"
        raise CheckpointError(f"the tokenizer {found}; name one with --family: {_names(FAMILIES)}")
    return fitting[0]


def _distinct(ids: list[list[int]]) -> bool:
    # A tokenizer with an unknown token may read every text it lacks as that one token.
    return all(len(each) == 1 for each in ids) and len({each[0] for each in ids}) == len(ids)


def _names(rows: list[Family] | tuple[Family, ...]) -> str:
    return ", ".join(row.name for row in rows)
