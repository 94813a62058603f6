"""One verdict from the outcomes of every window and policy."""

from collections.abc import Sequence
from typing import Any

from .decide import Outcome
from .verdict import Field, Verdict


def combined(passes: Sequence[tuple[Outcome, ...]], **rest: Any) -> Verdict:
    """Each policy by the window where it fares worst; the worst policy speaks for the text. rest: the other fields.

    A category's score is the highest of any window and policy: what one of them found is in the text.
    """
    outcomes = [max(found, key=Outcome.severity) for found in zip(*passes, strict=True)]
    worst = max(outcomes, key=Outcome.severity)
    fields: dict[str, Field | None] = {}
    for outcome in outcomes:
        fields |= outcome.fields
    openai: dict[str, float] = {}
    for name, score in (
        item for outcomes_of in passes for outcome in outcomes_of for item in outcome.openai_scores.items()
    ):
        openai[name] = max(score, openai.get(name, 0.0))
    return Verdict(
        safe=not worst.flagged,
        label=worst.label.name,
        field=worst.field,
        categories=tuple(dict.fromkeys(name for outcome in outcomes for name in outcome.categories)),
        score=worst.score,
        margin=worst.margin,
        fields=fields,
        openai_scores=openai,
        **rest,
    )
