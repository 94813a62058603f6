"""`guardpass bench --prepare`: makes the files that a run opens, and measures nothing.

The run itself can then wait for a quiet machine.
"""

from collections.abc import Iterator, Sequence

from guardpass.errors import GuardpassError

from ...peers.table import Peer, Setting
from ..report import tables
from ..report.format import number, table
from ..report.schema import Skipped
from ..report.subjects import name_of
from .contenders import Entry, RunContext, guard_entry, peer_entry
from .prepare import Options, prepare
from .rows import report, skipped
from .run import Progress


def prepare_only(
    targets: Sequence[str],
    quants: tuple[str, ...],
    peers: Sequence[tuple[Peer, Setting]],
    options: Options,
    context: RunContext,
    progress: Progress,
) -> Iterator[Entry | Skipped]:
    """Make twins, guards and peers' files where they are not there yet."""
    for target in targets:
        progress(f"{target}: checkpoint and guards")
        subject = prepare(target, quants, context.work, options)
        yield from (guard_entry(subject, guard, context) for guard in subject.guards)
        for peer, setting in peers:
            progress(f"{peer.name} {setting.name}: files")
            try:
                yield peer_entry(subject, peer, setting, context)
            except GuardpassError as error:
                yield skipped(peer, setting, subject.name, error)


def prepared_markdown(prepared: Sequence[Entry | Skipped]) -> str:
    """Tables of the files that are there and of those that could not be made."""
    body = [
        [name_of(entry.contender), entry.contender.subject, number(entry.mb), number(entry.convert_s), str(entry.path)]
        for entry in prepared
        if isinstance(entry, Entry)
    ]
    lost = [row for row in prepared if isinstance(row, Skipped)]
    parts = ["## Ready", table(["", "subject", "MB", "made in s", "opens"], body, left=2)]
    return "\n\n".join([*parts, *([tables.skipped(report("", lost))] if lost else [])])
