"""One verdict from the outcomes of every window and policy."""

from collections.abc import Sequence
from typing import Any

from .decide import Outcome
from .verdict import Field, Verdict


def combined(passes: Sequence[tuple[Outcome, ...]], **rest: Any) -> Verdict:
    """Each policy by the window where it fares worst; the worst policy speaks for the text. rest: the other fields."""
    outcomes = [max(found, key=Outcome.severity) for found in zip(*passes, strict=True)]
    worst = max(outcomes, key=Outcome.severity)
    fields: dict[str, Field | None] = {}
    for outcome in outcomes:
        fields |= outcome.fields
    return Verdict(
        safe=not worst.flagged,
        label=worst.label.name,
        field=worst.field,
        categories=tuple(dict.fromkeys(name for outcome in outcomes for name in outcome.categories)),
        score=worst.score,
        margin=worst.margin,
        fields=fields,
        **rest,
    )
