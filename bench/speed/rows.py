"""Rows of a result, from what was measured."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from guardpass.export.checkpoint.architecture import Architecture
from guardpass.export.checkpoint.config import read_architecture
from guardpass.export.checkpoint.files import Array, Checkpoint
from guardpass.passes import Pass

from ..peers.worker import Worker
from .contenders import Entry
from .environment import environment
from .questions import Asked
from .result import SCHEMA, Cost, Environment, Fidelity, Latency, Offline, Peaks, Rate, Report, Row, Skipped
from .scenarios import Offered, Turns, milliseconds
from .subjects import OURS
from .summary import Interval, paired_ratio, summary
from .work import causal, operations

R = TypeVar("R")


@dataclass(frozen=True)
class Shape:
    """What the work of a pass is counted by; nothing is known of a guard without its checkpoint."""

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
        return sum(operations(shape, each.mask[0, 0].sum(-1), each.slots[0], self.columns) for each in requests)

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

    asked: Asked
    label: int
    margin: float

    @classmethod
    def of(cls, asked: Asked, scores: Array) -> "Expected":
        """scores: [S, V'] of the question's pass."""
        root = scores[0, list(asked.columns)]  # slots follow those that lead to them
        *_, second, first = np.sort(root)
        return cls(asked, int(root.argmax()), float(first - second))


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
    told = [answer["run"] for answer in answers if answer["run"] is not None]
    run = int(statistics.median(told)) if told else prompt
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
    """Of the peak beside each turn: what the operations would take at it, over the time they took."""
    if operations is None or not peaks or min(ms) <= 0:
        return None, None
    return paired_ratio([operations / peak / 1e6 for peak in peaks], ms)


def fidelity(entry: Entry, worker: Worker, expected: Sequence[Expected]) -> Fidelity:
    """Asks them all."""
    answers = [worker.ask([each.asked.question])[0] for each in expected]
    flips = [each.margin for each, answer in zip(expected, answers, strict=True) if answer["label"] != each.label]
    return Fidelity(
        contender=entry.contender,
        environment=_environment(worker),
        texts=len(expected),
        agreement=1 - len(flips) / len(expected),
        widest_flip=max(flips, default=None),
    )


def cost(entry: Entry, worker: Worker) -> Cost:
    """What the worker has taken so far."""
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


def rate(entry: Entry, worker: Worker, content: int, found: Offered, bound_ms: float, seed: int) -> Rate:
    """Of one rate that was offered."""
    return Rate(
        contender=entry.contender,
        environment=_environment(worker),
        content=content,
        rate=found.rate,
        seed=seed,
        served=found.served,
        bound_ms=bound_ms,
        held=found.held,
        chosen=found.chosen,
        ms=found.ms,
        samples=found.samples,
    )


def offline(entry: Entry, worker: Worker, content: int, requests: int, seconds: float) -> Offline:
    """Of all requests at once."""
    return Offline(entry.contender, _environment(worker), content, requests, seconds, requests / seconds)


def report(command: str, rows: Sequence[Row]) -> Report:
    """All rows, by kind."""

    def of(kind: type[R]) -> tuple[R, ...]:
        return tuple(row for row in rows if isinstance(row, kind))

    return Report(
        SCHEMA, command, of(Latency), of(Cost), of(Fidelity), of(Rate), of(Offline), of(Peaks), of(Skipped),
    )  # fmt: skip


def _environment(worker: Worker) -> Environment:
    return environment({name: version for name, version in worker.versions.items() if name != "python"})
