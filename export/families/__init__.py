"""The published guards: one row each."""

from collections.abc import Callable, Collection

from guardpass.errors import CheckpointError, InputError

from . import kanana, llama_guard, qwen3guard, safetyguard, shieldgemma, wildguard
from .schema import Family

FAMILIES: tuple[Family, ...] = (
    *kanana.ROWS,
    *wildguard.ROWS,
    *shieldgemma.ROWS,
    *llama_guard.ROWS,
    *qwen3guard.ROWS,
    *safetyguard.ROWS,
)


def find(name: str) -> Family:
    """The row called `name`. Raises InputError, listing the rows, where there is none."""
    for row in FAMILIES:
        if row.name == name:
            return row
    raise InputError(f"unknown family {name!r}, expected a TOML file or one of: {_names(FAMILIES)}")


def detect(name: str, template: str | None, added: Collection[str], split: Callable[[str], list[int]]) -> Family:
    """The family of a checkpoint: by its published name, its verdict tokens, or lines of its chat template.

    added: texts of the tokenizer's added tokens. split: a text's token ids. Raises CheckpointError, listing the
    families, where none or several fit.
    """
    named = [row for row in FAMILIES if any(name.lower() == checkpoint.lower() for checkpoint in _published(row))]
    fitting = named[:1] or [
        row
        for row in FAMILIES
        if (all(mark in (template or "") for mark in row.marks) if row.marks else _spoken(row, added, split))
    ]
    most = max((len(row.marks) for row in fitting), default=0)
    fitting = [row for row in fitting if len(row.marks) == most]  # one family's marks may hold another's
    if len(fitting) != 1:
        reason = f"fits {_names(fitting)}" if fitting else "has no family's name, verdict tokens or chat template"
        raise CheckpointError(f"the checkpoint {reason}; name its family with --family: {_names(FAMILIES)}, or a file")
    return fitting[0]


def _published(row: Family) -> list[str]:
    return [*row.checkpoints, *(checkpoint.rpartition("/")[2] for checkpoint in row.checkpoints)]


def _spoken(row: Family, added: Collection[str], split: Callable[[str], list[int]]) -> bool:
    """Whether the tokenizer has tokens of its own for all the answers of the row, as `<SAFE>`."""
    texts = [answer.text for question in row.questions for answer in question.answers]
    if not all(text in added or text.startswith("<") for text in texts):
        return False  # words, which every tokenizer has
    # A tokenizer with an unknown token may read every text it lacks as that one token.
    ids = [split(text) for text in texts]
    return all(len(tokens) == 1 for tokens in ids) and len({tokens[0] for tokens in ids}) == len(ids)


def _names(rows: list[Family] | tuple[Family, ...]) -> str:
    return ", ".join(row.name for row in rows)
