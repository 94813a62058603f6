"""Who is measured: the guards of a subject, then the settings of peers, each opened as a worker."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from guardpass.errors import InputError

from ...peers import launch
from ...peers.environments import python_of
from ...peers.files import prepare as prepare_files
from ...peers.protocol import Question
from ...peers.table import GUARDPASS, PEERS, Peer, Setting, find
from ...peers.worker import Worker
from ..report.schema import Contender
from .prepare import Exported, Prepared
from .questions import ONE_PASS, Way


@dataclass(frozen=True)
class Entry:
    """A contender to be, and the files it opens. threads, affinity: what its process is given. way: of a guard."""

    contender: Contender
    peer: Peer
    setting: Setting
    path: Path
    mb: float
    convert_s: float | None
    work: Path
    affinity: tuple[int, ...] | None
    way: Way = ONE_PASS

    def worker(self) -> Worker:
        """Its process, not yet started."""
        return launch.worker(
            self.peer, self.setting, self.path, self.work, threads=self.contender.threads, affinity=self.affinity
        )


@dataclass(frozen=True)
class Given:
    """What all entries of a run have in common. beside: said of every setting, "" where there is nothing to say."""

    threads: int
    affinity: tuple[int, ...] | None
    work: Path
    beside: str = ""


def chosen(names: Sequence[str], only: Sequence[str], whole: bool = False) -> list[tuple[Peer, Setting]]:
    """Settings of the named peers ("all": of every one) whose name, behind the peer's, contains one of `only`.

    whole: those too that answer in full.

    Raises InputError for a name that is unknown, and where nothing is left.
    """
    peers = PEERS if list(names) == ["all"] else [find(name) for name in names]
    found = [
        (peer, setting)
        for peer in peers
        for setting in peer.settings
        if whole or not setting.whole
        if not only or any(part in f"{peer.name} {setting.name}" for part in only)
    ]
    if only and not found:
        known = "; ".join(f"{peer.name} {setting.name}" for peer in peers for setting in peer.settings)
        raise InputError(f"--only {', '.join(only)} leaves no setting of these: {known or 'no peers were named'}")
    return found


def guard_entry(subject: Prepared, guard: Exported, given: Given, way: Way = ONE_PASS) -> Entry:
    """A guard of ours, asked in one way."""
    engine, quant = guard.engine.name, guard.engine.quant
    name = quant if engine == "onnx" else f"{quant}, engine {engine}"
    setting = Setting(f"{name}{way.name}", quant, {"passes": way.passes} if way.passes else {}, prefix_kept=True)
    contender = _contender(subject, GUARDPASS, setting, given)
    path = guard.path.absolute()
    return Entry(contender, GUARDPASS, setting, path, guard.mb, guard.convert_s, given.work, given.affinity, way)


def peer_entry(subject: Prepared, peer: Peer, setting: Setting, given: Given) -> Entry:
    """A peer, its files made; of its setting's sweep the first way.

    Raises GuardpassError where it cannot be run on this machine or checkpoint.
    """
    if subject.checkpoint is None:
        raise InputError(f"{subject.name} is a guard, and {peer.name} needs the checkpoint it was exported from")
    python_of(peer, given.work)  # also where nothing is made: a missing peer is reported before a run
    made = prepare_files(peer, setting, subject.checkpoint, given.work)
    contender = _contender(subject, peer, setting, given)
    return Entry(contender, peer, setting, made.path, made.mb, made.convert_s, given.work, given.affinity)


def fastest(entry: Entry, questions: Sequence[Question], given: Given) -> Entry:
    """At the fastest way of its setting's sweep on `questions`. Raises PeerError where none works."""
    setting, _ = launch.best(
        entry.peer, entry.setting, entry.path, entry.work, questions, threads=given.threads, affinity=given.affinity
    )
    return replace(entry, setting=setting, contender=replace(entry.contender, setting=setting.name + given.beside))


def _contender(subject: Prepared, peer: Peer, setting: Setting, given: Given) -> Contender:
    return Contender(
        engine=peer.name,
        setting=setting.name + given.beside,
        quant=setting.quant,
        subject=subject.name,
        weights=subject.weights,
        layers=subject.layers,
        threads=given.threads,
        prefix_kept=setting.prefix_kept,
    )
