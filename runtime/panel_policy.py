"""Combines the members' verdicts of a panel, as soon as no pending member can change the outcome."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NoReturn

from .format.codec import encode
from .format.manifest import Mode
from .verdict import Verdict

PanelPolicy = Literal["any", "all", "weighted"]


@dataclass(frozen=True)
class PanelVerdict:
    """The verdict of a panel.

    score: under "weighted" the weighted mean of the scores so far; else the worst score of `decided_by`, the members
    whose verdicts settled the outcome.
    members: the verdict of each member; None for a member that lacks the mode, was no longer needed, or failed.
    failures: by member, the error's kind.
    ms: milliseconds from the call to the verdict.
    """

    safe: bool
    policy: PanelPolicy
    score: float
    decided_by: tuple[str, ...]
    members: dict[str, Verdict | None]
    failures: dict[str, str]
    mode: Mode
    ms: float

    def __bool__(self) -> NoReturn:
        raise TypeError("a panel's verdict has no truth value; read its attribute `safe`")

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        body: dict[str, Any] = encode(replace(self, members={}))
        return body | {
            "members": {name: None if verdict is None else verdict.to_json() for name, verdict in self.members.items()}
        }


@dataclass(frozen=True)
class Settled:
    """The outcome, and the members whose verdicts settled it."""

    unsafe: bool
    by: tuple[str, ...]
    score: float


def settle(
    policy: PanelPolicy, threshold: float, weights: Mapping[str, float], verdicts: Mapping[str, Verdict]
) -> Settled | None:
    """The outcome, or None while a pending member can change it. weights: of every member that judges."""
    pending = weights.keys() - verdicts.keys()
    if policy == "weighted":
        judged = sum(weights[name] for name in verdicts)
        total = sum(weights.values())
        low = sum(weights[name] * verdict.score for name, verdict in verdicts.items())
        high = low + sum(weights[name] for name in pending)
        if low < threshold * total <= high:
            return None
        return Settled(low >= threshold * total, tuple(verdicts), low / judged if judged else 0.0)
    # The first unsafe verdict settles "any", and the first safe one settles "all".
    ends = tuple(name for name, verdict in verdicts.items() if verdict.safe == (policy == "all"))
    by = ends or tuple(verdicts)
    if pending and not ends:
        return None
    return Settled((policy == "any") == bool(ends), by, max(verdicts[name].score for name in by))
