"""Builds the rows of a result from measurements."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from guardpass.errors import GuardpassError
from guardpass.export.checkpoint.architecture import Architecture
from guardpass.export.checkpoint.config import read_architecture
from guardpass.export.checkpoint.files import Array, Checkpoint
from guardpass.plan import Pass

from ...peers.errors import PeerError, PeerMissing
from ...peers.table import Peer, Setting
from ...peers.worker import Worker
from ..report.schema import SCHEMA, Cost, Environment, Fidelity, Latency, Offline, Peaks, Rate, Report, Row, Skipped
from ..report.statistics import Interval, paired_ratio, summary
from ..report.subjects import OURS
from .contenders import Entry
from .environment import environment
from .flops import causal, operations
from .questions import PlannedQuestion
from .scenarios import Offered, Turns, milliseconds

R = TypeVar("R")


@dataclass(frozen=True)
class Shape:
    """What the operations of a pass are counted by. Without its checkpoint, a guard's architecture is unknown."""

    architecture: Architecture | None
    mode: str
    columns: int  # of the vocabulary, that a guard scores

    @classmethod
    def of(cls, checkpoint: Path | None, mode: str, columns: int) -> "Shape":
        return cls(None if checkpoint is None else read_architecture(Checkpoint(checkpoint)), mode, columns)

    def of_passes(self, requests: Sequence[Pass]) -> float | None:
        """Operations of a guard's passes."""
        if self.architecture is None:
            return None
        shape = self.architecture
        return sum(
            operations(shape, request.mask[0, 0].sum(-1), request.slots[0], self.columns) for request in requests
        )

    def of_prompt(self, prompt: int, run: int) -> float | None:
        """Operations of a peer over the last `run` tokens of a prompt; those beyond it are decoded."""
        if self.architecture is None:
            return None
        scored = np.arange(min(run, prompt) - 1, run)
        seen = causal(run, max(run, prompt))
        return operations(self.architecture, seen, scored, self.architecture.vocab, pruned=False)


@dataclass(frozen=True)
class Expected:
    """A question, the label that the checkpoint's own weights give in fp32, and its lead over the next, in logits."""

    planned: PlannedQuestion
    label: int
    margin: float

    @classmethod
    def of(cls, planned: PlannedQuestion, scores: Array) -> "Expected":
        """scores: [S, V'] of the question's pass."""
        root = scores[0, list(planned.columns)]  # slots follow those that lead to them
        *_, second, first = np.sort(root)
        return cls(planned, int(root.argmax()), float(first - second))


def latency(
    entry: Entry,
    worker: Worker,
    shape: Shape,
    prompt: int,
    requests: Sequence[Pass],
    content: int,
    turns: Turns,
    beside: Sequence[float] | None = None,
) -> Latency:
    """prompt: tokens of it. requests: passes of a guard. beside: ms of the first contender in the same turns."""
    answers = turns.answers
    samples = milliseconds(answers)
    counts = [answer["run"] for answer in answers if answer["run"] is not None]
    run = int(statistics.median(counts)) if counts else prompt
    ratio, interval = (None, None) if beside is None else paired_ratio(samples, beside)
    split = {name: statistics.median(answer["split"][name] for answer in answers) for name in answers[0]["split"]}
    ours = entry.contender.engine == OURS
    counted = shape.of_passes(requests) if ours else shape.of_prompt(prompt, run)
    passes = [answer["split"].get("pass", ms) for answer, ms in zip(answers, samples, strict=True)]
    share, share_interval = _share(counted, passes, turns.peaks)
    return Latency(
        contender=entry.contender,
        environment=_environment(worker),
        mode=shape.mode,
        content=content,
        prompt=prompt,
        run=run,
        ms=summary(samples),
        samples=samples,
        ratio=ratio,
        ratio_interval=interval,
        split=split,
        operations=counted,
        peaks=tuple(turns.peaks) or None,
        share=share,
        share_interval=share_interval,
    )


def _share(
    operations: float | None, ms: Sequence[float], peaks: Sequence[float]
) -> tuple[float | None, Interval | None]:
    """The share of the peak measured beside each turn: time of the operations at that peak over the time they took."""
    if operations is None or not peaks or min(ms) <= 0:
        return None, None
    return paired_ratio([operations / peak / 1e6 for peak in peaks], ms)


def fidelity(entry: Entry, worker: Worker, expected: Sequence[Expected]) -> Fidelity:
    """Asks the worker all questions and compares its labels."""
    answers = [worker.ask([reference.planned.question])[0] for reference in expected]
    flips = [
        reference.margin
        for reference, answer in zip(expected, answers, strict=True)
        if answer["label"] != reference.label
    ]
    return Fidelity(
        contender=entry.contender,
        environment=_environment(worker),
        texts=len(expected),
        agreement=1 - len(flips) / len(expected),
        widest_flip=max(flips, default=None),
    )


def cost(entry: Entry, worker: Worker) -> Cost:
    """Time and memory that the worker has taken so far."""
    resident, peak = worker.memory()
    return Cost(
        contender=entry.contender,
        environment=_environment(worker),
        load_s=worker.load_s,
        first_verdict_s=worker.first_verdict_s,
        resident_mb=resident,
        peak_mb=peak,
        file_mb=entry.mb,
        convert_s=entry.convert_s,
    )


def rate(entry: Entry, worker: Worker, content: int, offered: Offered, bound_ms: float, seed: int) -> Rate:
    """The row of one offered rate."""
    return Rate(
        contender=entry.contender,
        environment=_environment(worker),
        content=content,
        rate=offered.rate,
        seed=seed,
        served=offered.served,
        bound_ms=bound_ms,
        held=offered.held,
        chosen=offered.chosen,
        ms=offered.ms,
        samples=offered.samples,
    )


def offline(entry: Entry, worker: Worker, content: int, requests: int, seconds: float) -> Offline:
    """The row of all requests at once."""
    return Offline(entry.contender, _environment(worker), content, requests, seconds, requests / seconds)


def skipped(peer: Peer, setting: Setting, subject: str, error: GuardpassError) -> Skipped:
    """The row that says why a setting is not measured."""
    command = error.command if isinstance(error, PeerError | PeerMissing) else ""
    return Skipped(environment({}), peer.name, setting.name, subject, str(error), command)


def report(command: str, rows: Sequence[Row]) -> Report:
    """All rows, by kind."""

    def of(kind: type[R]) -> tuple[R, ...]:
        return tuple(row for row in rows if isinstance(row, kind))

    return Report(
        SCHEMA,
        command,
        of(Latency),
        of(Cost),
        of(Fidelity),
        of(Rate),
        of(Offline),
        of(Peaks),
        of(Skipped),
    )


def _environment(worker: Worker) -> Environment:
    return environment({name: version for name, version in worker.versions.items() if name != "python"})
