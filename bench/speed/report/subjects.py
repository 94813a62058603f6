"""A report by subject: contenders are compared only on the same weights and the same number of threads."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from .schema import Contender, Report, Weights

OURS = "guardpass"
_WEIGHTS: dict[Weights, str] = {
    "twin": "shape twin, random weights",
    "checkpoint": "the checkpoint's weights",
    "guard": "an exported guard",
}


class _OfContender(Protocol):
    @property
    def contender(self) -> Contender: ...


R = TypeVar("R", bound=_OfContender)


@dataclass(frozen=True)
class Subject:
    """Weights and threads that comparable contenders share."""

    name: str
    weights: Weights
    layers: int | None
    threads: int

    @property
    def title(self) -> str:
        cut = "" if self.layers is None else f", cut to {self.layers} layers"
        return f"{self.name} ({_WEIGHTS[self.weights]}{cut}), {self.threads} thread{'s' * (self.threads != 1)}"


def subject_of(contender: Contender) -> Subject:
    return Subject(contender.subject, contender.weights, contender.layers, contender.threads)


def contenders(report: Report) -> tuple[Contender, ...]:
    """In the order of the rows."""
    rows: tuple[_OfContender, ...] = (
        *report.latency,
        *report.rate,
        *report.offline,
        *report.fidelity,
        *report.cost,
    )
    return tuple(dict.fromkeys(row.contender for row in rows))


def subjects(report: Report) -> tuple[Subject, ...]:
    return tuple(dict.fromkeys(map(subject_of, contenders(report))))


def only(report: Report, subject: Subject) -> Report:
    """The rows of one subject, and the peaks of the same number of threads."""

    def chosen(rows: Iterable[R]) -> tuple[R, ...]:
        return tuple(row for row in rows if subject_of(row.contender) == subject)

    return replace(
        report,
        latency=chosen(report.latency),
        cost=chosen(report.cost),
        fidelity=chosen(report.fidelity),
        rate=chosen(report.rate),
        offline=chosen(report.offline),
        peaks=tuple(row for row in report.peaks if row.threads == subject.threads),
        skipped=tuple(row for row in report.skipped if row.subject == subject.name),
    )


def name_of(contender: Contender) -> str:
    """The name of a contender in tables and plots of one subject."""
    return f"{contender.engine} {contender.setting}".strip()
