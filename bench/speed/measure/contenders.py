"""The contenders of a run: the guards of a subject and the settings of peers, each opened as a worker."""

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
    """A contender and the files that it opens. affinity: the cores of its process. way: how a guard is asked."""

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
class RunContext:
    """What all entries of a run share. beside: a suffix of every setting's name, or ""."""

    threads: int
    affinity: tuple[int, ...] | None
    work: Path
    beside: str = ""


def chosen(names: Sequence[str], only: Sequence[str], whole: bool = False) -> list[tuple[Peer, Setting]]:
    """Settings of the named peers, or of all for "all", whose full name ("PEER SETTING") contains one of `only`.

    whole: include settings that decode whole answers. Raises InputError for an unknown name, and where no setting is
    left.
    """
    peers = PEERS if list(names) == ["all"] else [find(name) for name in names]
    settings = [
        (peer, setting)
        for peer in peers
        for setting in peer.settings
        if whole or not setting.whole
        if not only or any(part in f"{peer.name} {setting.name}" for part in only)
    ]
    if only and not settings:
        names = "; ".join(f"{peer.name} {setting.name}" for peer in peers for setting in peer.settings)
        raise InputError(f"--only {', '.join(only)} leaves no setting of these: {names or 'no peers were named'}")
    return settings


def guard_entry(subject: Prepared, guard: Exported, context: RunContext, way: Way = ONE_PASS) -> Entry:
    """A guard as a contender, asked in one way."""
    engine, quant = guard.engine.name, guard.engine.quant
    name = quant if engine == "onnx" else f"{quant}, engine {engine}"
    setting = Setting(f"{name}{way.name}", quant, {"passes": way.passes} if way.passes else {}, prefix_kept=True)
    contender = _contender(subject, GUARDPASS, setting, context)
    path = guard.path.absolute()
    return Entry(contender, GUARDPASS, setting, path, guard.mb, guard.convert_s, context.work, context.affinity, way)


def peer_entry(subject: Prepared, peer: Peer, setting: Setting, context: RunContext) -> Entry:
    """A peer as a contender, with its files made, in the first way of its setting's sweep.

    Raises GuardpassError where the peer cannot run on this machine or checkpoint.
    """
    if subject.checkpoint is None:
        raise InputError(f"{subject.name} is a guard, and {peer.name} needs the checkpoint it was exported from")
    python_of(peer, context.work)  # also where nothing is made: a missing peer is reported before a run
    made = prepare_files(peer, setting, subject.checkpoint, context.work)
    contender = _contender(subject, peer, setting, context)
    return Entry(contender, peer, setting, made.path, made.mb, made.convert_s, context.work, context.affinity)


def fastest(entry: Entry, questions: Sequence[Question], context: RunContext) -> Entry:
    """The entry in the fastest way of its setting's sweep on `questions`. Raises PeerError where none works."""
    setting, _ = launch.best(
        entry.peer, entry.setting, entry.path, entry.work, questions, threads=context.threads, affinity=context.affinity
    )
    return replace(entry, setting=setting, contender=replace(entry.contender, setting=setting.name + context.beside))


def _contender(subject: Prepared, peer: Peer, setting: Setting, context: RunContext) -> Contender:
    return Contender(
        engine=peer.name,
        setting=setting.name + context.beside,
        quant=setting.quant,
        subject=subject.name,
        weights=subject.weights,
        layers=subject.layers,
        threads=context.threads,
        prefix_kept=setting.prefix_kept,
    )
