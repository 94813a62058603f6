"""A whole report in markdown: where a peer is ahead comes first, then the machine, then each subject's tables."""

from collections.abc import Sequence

from . import tables
from .files import rows
from .format import bold, code, number, percent, ratio, table
from .schema import Environment, Peaks, Report, Skipped
from .standings import Stand, reference, standings
from .subjects import OURS, Subject, name_of, only, subjects


def markdown(report: Report) -> str:
    """The report as text that GitHub renders, and `rich.markdown` in a terminal."""
    reports = [(subject, only(report, subject)) for subject in subjects(report)]
    parts = ["# guardpass bench", *_ahead(report, reports), *_run(report)]
    for subject, own in reports:
        parts += [f"## {subject.title}"]
        for rows_, show in (
            (own.latency, tables.latency),
            (own.fidelity, tables.fidelity),
            (own.cost, tables.costs),
            (own.rate, tables.rates),
            (own.offline, tables.offline),
        ):
            parts += [show(own)] if rows_ else []
    parts += [tables.peaks(report)] if report.peaks else []
    parts += [tables.skipped(report)] if report.skipped else []
    return "\n\n".join(parts) + "\n"


def _ahead(report: Report, reports: Sequence[tuple[Subject, Report]]) -> list[str]:
    parts = ["## Where a peer is ahead of guardpass"]
    for subject, own in reports:
        stands = tuple(standings(own))
        ahead, level = ([stand for stand in stands if stand.standing == kind] for kind in ("ahead", "level"))
        shown = ahead + [stand for stand in level if stand.peer.n > 1]  # one measurement that is the same says little
        parts += [
            f"{subject.title}: ahead in {len(ahead)}, level in {len(level)} of {len(stands)} comparisons."
            if stands
            else f"{subject.title}: nothing to compare."
        ]
        ours = reference(own)
        if shown and ours:
            head = ["peer", "measure", "", "ratio", "peer's", f"{name_of(ours)}'s", "N"]
            parts += [table(head, map(_stand, shown), left=3)]
    missing = sorted({f"{row.engine} {row.setting}".strip() for row in report.skipped if row.engine != OURS})
    if missing:
        parts += [f"Not compared, as they could not run here (see Skipped): {', '.join(missing)}."]
    return parts


def _stand(stand: Stand) -> list[str]:
    standing = bold(stand.standing) if stand.standing == "ahead" else stand.standing
    peer, ours = stand.peer, stand.ours
    numbers = (f"{number(at.value)} {at.unit}" if at.unit else percent(at.value) for at in (peer, ours))
    return [name_of(peer.contender), peer.measure, standing, ratio(stand.ratio, stand.interval), *numbers, str(peer.n)]


def _run(report: Report) -> list[str]:
    """Machine and versions; peers run in environments of their own, so that versions go by engine."""
    machines: dict[str, None] = {}
    versions: dict[str, None] = {}
    for _, row in rows(report):
        machines[machine(row.environment)] = None
        if isinstance(row, Peaks | Skipped):
            continue
        listed = ", ".join(f"{name} {version}" for name, version in row.environment.versions.items())
        if listed:
            versions[f"- {row.contender.engine}: Python {row.environment.python}, {listed}"] = None
    first = min((row.environment.date for _, row in rows(report)), default="")
    commits = ", ".join(sorted({row.environment.commit or "no checkout" for _, row in rows(report)}))
    return [
        "## The run",
        "\n".join(
            [f"- {code(report.command)}", f"- {first}, guardpass at {commits}", *(f"- {name}" for name in machines)]
        ),
        *(["Versions:", "\n".join(versions)] if versions else []),
    ]


def machine(environment: Environment) -> str:
    """The machine on one line."""
    cores = ", ".join(map(str, environment.affinity))
    governor = f", governor {environment.governor}" if environment.governor else ""
    return (
        f"{environment.cpu}, {environment.cores} cores (run on {cores}){governor}, {environment.memory_gb:g} GB, "
        f"{' '.join(environment.flags) or 'no known flags'}"
    )
