"""`guardpass bench compare`: the changes from one report to another, and whether they exceed noise."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from guardpass.errors import InputError

from .files import rows
from .format import bold, number, percent, table
from .format import ratio as ratio_cell
from .markdown import machine
from .measures import Value, ratio, values
from .schema import Contender, Peaks, Report, Skipped
from .statistics import Interval, ratio_interval
from .subjects import name_of, subject_of, subjects

# "not judged": measured once, or too seldom.
Mark = Literal["worse", "better", "within noise", "not judged"]
_MARKS: tuple[Mark, ...] = ("worse", "better", "within noise", "not judged")


@dataclass(frozen=True)
class Change:
    """A contender by one measure, in both reports."""

    contender: Contender
    measure: str
    unit: str
    before: float
    after: float
    n: tuple[int, ...]  # before, after
    ratio: float  # after to before
    interval: Interval | None  # 95 %, of the ratio
    mark: Mark


@dataclass(frozen=True)
class Lone:
    """A value that only one report has."""

    contender: Contender
    measure: str


@dataclass(frozen=True)
class Changes:
    """Two reports compared. machine, software: what differs between where they were made."""

    machine: tuple[str, ...]
    software: tuple[str, ...]
    changes: tuple[Change, ...]  # what got worse first
    only_before: tuple[Lone, ...]
    only_after: tuple[Lone, ...]


def compare_reports(before: Report, after: Report) -> Changes:
    """Match what both have of a contender by a measure. Raises InputError where they have no subject in common."""
    subjects_ = [subjects(report) for report in (before, after)]
    if not set(subjects_[0]) & set(subjects_[1]):
        names = (", ".join(value.title for value in titles) or "nothing" for titles in subjects_)
        raise InputError(f"found reports of {' and of '.join(names)}; expected a subject in common, on as many threads")
    first, second = (
        {(value.contender, value.measure): value for value in values(report)} for report in (before, after)
    )
    changes = [_change(first[key], second[key]) for key in first if key in second]
    return Changes(
        machine=_differing(before, after, _machine),
        software=_differing(before, after, _software),
        changes=tuple(sorted(changes, key=lambda value: _MARKS.index(value.mark))),
        only_before=tuple(Lone(*key) for key in first if key not in second),
        only_after=tuple(Lone(*key) for key in second if key not in first),
    )


def _change(before: Value, after: Value) -> Change:
    interval = ratio_interval(after.value, after.interval, before.value, before.interval)
    mark: Mark = "not judged"
    if interval:
        low, high = interval
        moved: Mark = "better" if (low > 1) == after.higher else "worse"
        mark = "within noise" if low <= 1 <= high else moved
    return Change(
        after.contender,
        after.measure,
        after.unit,
        before.value,
        after.value,
        (before.n, after.n),
        ratio(after, before),
        interval,
        mark,
    )


def _machine(report: Report) -> Iterable[str]:
    return (machine(row.environment) for _, row in rows(report))


def _software(report: Report) -> Iterable[str]:
    for _, row in rows(report):
        yield f"guardpass at {row.environment.commit or 'no checkout'}"
        if not isinstance(row, Peaks | Skipped):
            yield f"{row.contender.engine}: Python {row.environment.python}"
            yield from (f"{row.contender.engine}: {' '.join(item)}" for item in row.environment.versions.items())


def _differing(before: Report, after: Report, of: Callable[[Report], Iterable[str]]) -> tuple[str, ...]:
    first, second = (dict.fromkeys(of(report)) for report in (before, after))
    return (
        *(f"before: {line}" for line in first if line not in second),
        *(f"after: {line}" for line in second if line not in first),
    )


def changes_markdown(changes: Changes) -> str:
    """Tables by subject, what got worse first; the machine before all, where it differs."""
    counts = {mark: sum(change.mark == mark for change in changes.changes) for mark in _MARKS}
    parts = ["# guardpass bench compare"]
    if changes.machine:
        parts += ["**The machine differs**, so that no change says much of the software:", _list(changes.machine)]
    parts += [f"{', '.join(f'{count} {mark}' for mark, count in counts.items())}."]
    parts += ["Software that differs:", _list(changes.software)] if changes.software else []
    parts += [
        "Ratios are after to before, with 95 % intervals from those of both. They know nothing of how the machine's "
        "speed moves from run to run: hold small changes against those of a contender that is the same in both."
    ]
    head = ["", "measure", "", "ratio", "before", "after", "N"]
    shown = [change for change in changes.changes if change.mark != "not judged" or change.before != change.after]
    for subject in dict.fromkeys(subject_of(change.contender) for change in shown):
        own = (change for change in shown if subject_of(change.contender) == subject)
        parts += [f"## {subject.title}", table(head, map(_row, own), left=3)]
    for title, lone in (("before", changes.only_before), ("after", changes.only_after)):
        if lone:
            parts += [f"## Only {title}", _list(f"{name_of(change.contender)}, {_of(change)}" for change in lone)]
    return "\n\n".join(parts) + "\n"


def _row(change: Change) -> list[str]:
    numbers = (
        f"{number(value)} {change.unit}" if change.unit else percent(value) for value in (change.before, change.after)
    )
    mark = bold(change.mark) if change.mark in ("worse", "better") else change.mark
    n = " and ".join(map(str, dict.fromkeys(change.n)))
    return [name_of(change.contender), change.measure, mark, ratio_cell(change.ratio, change.interval), *numbers, n]


def _of(lone: Lone) -> str:
    return f"{lone.contender.subject}, {lone.contender.threads} threads: {lone.measure}"


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
