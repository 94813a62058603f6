"""What a panel's members come to together, and whether that is settled before all have spoken."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NoReturn

from .format.codec import encode
from .format.manifest import Mode
from .verdict import Verdict

PanelPolicy = Literal["any", "all", "weighted"]


@dataclass(frozen=True)
class PanelVerdict:
    """What a panel says.

    score: under "weighted" the mean so far, of those who spoke, by weight; else the worst score of `decided_by`, whose
    verdicts settled it. members: each one's own verdict; None of one that lacks the mode, was not needed any more, or
    failed, where `failures` has the error's kind. ms: from asking to the verdict.
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
            "members": {name: None if each is None else each.to_json() for name, each in self.members.items()}
        }


@dataclass(frozen=True)
class Settled:
    """The outcome, and whose verdicts make it so."""

    unsafe: bool
    by: tuple[str, ...]
    score: float


def settle(
    policy: PanelPolicy, threshold: float, weights: Mapping[str, float], verdicts: Mapping[str, Verdict]
) -> Settled | None:
    """The outcome if no member that has not spoken can change it. weights: of all who were to speak."""
    silent = weights.keys() - verdicts.keys()
    if policy == "weighted":
        spoken, total = sum(weights[name] for name in verdicts), sum(weights.values())
        low = sum(weights[name] * verdict.score for name, verdict in verdicts.items())
        high = low + sum(weights[name] for name in silent)
        if low < threshold * total <= high:
            return None
        return Settled(low >= threshold * total, tuple(verdicts), low / spoken if spoken else 0.0)
    # "any" ends with the first that says unsafe, "all" with the first that says safe.
    ends = tuple(name for name, verdict in verdicts.items() if verdict.safe == (policy == "all"))
    by = ends or tuple(verdicts)
    if silent and not ends:
        return None
    return Settled((policy == "any") == bool(ends), by, max(verdicts[name].score for name in by))
