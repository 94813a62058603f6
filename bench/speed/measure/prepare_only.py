"""`guardpass bench --prepare`: all that a run would open is made, and nothing measured, which may so wait for a quiet
machine."""

from collections.abc import Iterator, Sequence

from guardpass.errors import GuardpassError

from ...peers.table import Peer, Setting
from ..report import tables
from ..report.format import number, table
from ..report.schema import Skipped
from ..report.subjects import name_of
from .contenders import Entry, Given, guard_entry, peer_entry
from .prepare import Options, prepare
from .rows import report, skipped
from .run import Told


def ready(
    targets: Sequence[str],
    quants: tuple[str, ...],
    peers: Sequence[tuple[Peer, Setting]],
    options: Options,
    given: Given,
    told: Told,
) -> Iterator[Entry | Skipped]:
    """Make twins, guards and peers' files where they are not there yet."""
    for target in targets:
        told(f"{target}: checkpoint and guards")
        subject = prepare(target, quants, given.work, options)
        yield from (guard_entry(subject, guard, given) for guard in subject.guards)
        for peer, setting in peers:
            told(f"{peer.name} {setting.name}: files")
            try:
                yield peer_entry(subject, peer, setting, given)
            except GuardpassError as error:
                yield skipped(peer, setting, subject.name, error)


def ready_markdown(found: Sequence[Entry | Skipped]) -> str:
    """What is there, then what could not be made."""
    body = [
        [name_of(each.contender), each.contender.subject, number(each.mb), number(each.convert_s), str(each.path)]
        for each in found
        if isinstance(each, Entry)
    ]
    lost = [each for each in found if isinstance(each, Skipped)]
    parts = ["## Ready", table(["", "subject", "MB", "made in s", "opens"], body, left=2)]
    return "\n\n".join([*parts, *([tables.skipped(report("", lost))] if lost else [])])
