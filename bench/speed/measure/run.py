"""One run: every contender on every subject, in turn with guardpass's first guard, so that ratios hold."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from guardpass.errors import GuardpassError
from guardpass.export.checkpoint.config import read_architecture
from guardpass.export.checkpoint.files import Checkpoint
from guardpass.export.decoder.forward import reference_scores
from guardpass.format.integrity import open_guard
from guardpass.format.manifest import Mode

from ...peers.protocol import Question
from ...peers.table import Peer, Setting
from ...peers.worker import Worker
from ..report.schema import Row
from . import scenarios
from .contenders import Entry, RunContext, fastest, guard_entry, peer_entry
from .int8_peak import bound, peak_of
from .peaks import peaks
from .prepare import Options, Prepared, prepare
from .questions import PlannedQuestion, Questions
from .rows import Expected, Shape, cost, fidelity, latency, offline, rate, skipped

WARM_UP = 2  # turns that count for nothing, of each length
_SWEPT = 4  # questions that compare the ways of a sweep, the first of them to warm up
_BELOW_HIGHEST = 0.7  # share of the highest rate at which p95 is measured once more

Progress = Callable[[str], None]  # called with a line when a step begins


@dataclass(frozen=True)
class Plan:
    """What to measure. peers: with their settings. load: content tokens for the scenarios server and offline."""

    quants: tuple[str, ...]
    peers: tuple[tuple[Peer, Setting], ...]
    scenarios: frozenset[str]
    lengths: tuple[int, ...]
    turns: int
    texts: int  # by which verdicts are compared; 0: none
    load: int
    requests: int
    p95_ms: float | None  # the bound; None: five times the median of scenario single
    neighbours: int
    seed: int
    mode: Mode | None = None
    whole: bool = False  # guards are also asked for all policies

    def steps(self, targets: int) -> int:
        """How many steps `run` reports, if nothing is skipped and guards are asked in one way."""
        contender_steps = (
            len(self.lengths) * ("single" in self.scenarios) + len(self.scenarios - {"single"}) + bool(self.texts)
        )
        return 1 + targets * (
            1 + bool(self.texts) + len(self.peers) + (len(self.quants) + len(self.peers)) * contender_steps
        )


def run(targets: Sequence[str], plan: Plan, options: Options, context: RunContext, progress: Progress) -> Iterator[Row]:
    """Measure everything, and yield a row as soon as it is known. A peer that cannot run becomes a row with the reason;
    a failure of guardpass is raised.

    progress is called when a step begins.
    """
    progress("the machine's peaks")
    with bound(context.affinity):
        row = peaks(context.threads)
    yield row
    with _neighbours(plan.neighbours):
        for target in targets:
            progress(f"{target}: checkpoint and guards")
            yield from _Subject(prepare(target, plan.quants, context.work, options), plan, context, progress).rows()


class _Subject:
    """The run on one subject."""

    def __init__(self, subject: Prepared, plan: Plan, context: RunContext, progress: Progress) -> None:
        self._subject, self._plan, self._context, self._progress = subject, plan, context, progress
        questions = Questions(subject.guards[0].path, plan.mode)
        self._questions = questions
        lengths = plan.lengths if "single" in plan.scenarios else ()
        self._timed = {tokens: questions.of_length(tokens, WARM_UP + plan.turns) for tokens in lengths}
        self._load = questions.of_length(plan.load, plan.requests, plan.seed + 1)
        columns = len(open_guard(subject.guards[0].path, verify=False).columns)
        self._shape = Shape.of(subject.checkpoint, questions.mode, columns)
        self._expected = self._reference()

    def rows(self) -> Iterator[Row]:
        """All rows of the subject, those of its first guard first."""
        first, *others = (
            guard_entry(self._subject, guard, self._context, way)
            for guard in self._subject.guards
            for way in self._questions.ways(self._plan.whole)
        )
        with first.worker() as ours:
            for tokens, questions in self._timed.items():
                self._progress(f"{self._name(first)}: single, {tokens} tokens")
                (turns,) = self._in_turn([ours], questions)
                yield self._latency(first, ours, tokens, turns)
            yield from self._rest(first, ours)
            for entry in others:
                yield from self._beside(ours, entry)
            for peer, setting in self._plan.peers:
                yield from self._peer(ours, peer, setting)

    def _peer(self, ours: Worker, peer: Peer, setting: Setting) -> Iterator[Row]:
        self._progress(f"{peer.name} {setting.name}: files and settings")
        try:
            entry = peer_entry(self._subject, peer, setting, self._context)
            yield from self._beside(ours, fastest(entry, _asks(self._load[:_SWEPT]), self._context))
        except GuardpassError as error:
            self._progress(f"{peer.name} {setting.name}: cannot run here")
            yield skipped(peer, setting, self._subject.name, error)

    def _beside(self, ours: Worker, entry: Entry) -> Iterator[Row]:
        """A contender, in turn with the first."""
        with entry.worker() as worker:
            for tokens, questions in self._timed.items():
                self._progress(f"{self._name(entry)}: single, {tokens} tokens")
                first, turns = self._in_turn([ours, worker], questions)
                yield self._latency(entry, worker, tokens, turns, scenarios.milliseconds(first.answers))
            yield from self._rest(entry, worker)

    def _latency(
        self, entry: Entry, worker: Worker, tokens: int, turns: scenarios.Turns, beside: Sequence[float] | None = None
    ) -> Row:
        last = self._timed[tokens][-1]
        requests = self._questions.requests(last, entry.way)
        return latency(entry, worker, self._shape, len(last.question["ids"]), requests, tokens, turns, beside)

    def _in_turn(self, workers: Sequence[Worker], questions: Sequence[PlannedQuestion]) -> list[scenarios.Turns]:
        with bound(self._context.affinity):
            return scenarios.in_turn(workers, _asks(questions), WARM_UP, peak_of(self._context.threads))

    def _rest(self, entry: Entry, worker: Worker) -> Iterator[Row]:
        """Verdicts, throughput and costs."""
        if self._expected:
            self._progress(f"{self._name(entry)}: verdicts")
            yield fidelity(entry, worker, self._expected)
        asks = _asks(self._load)
        if "server" in self._plan.scenarios:
            yield from self._server(entry, worker, asks)
        if "offline" in self._plan.scenarios:
            self._progress(f"{self._name(entry)}: offline")
            yield offline(entry, worker, self._plan.load, len(asks), scenarios.offline(worker, asks))
        yield cost(entry, worker)

    def _server(self, entry: Entry, worker: Worker, asks: list[Question]) -> Iterator[Row]:
        self._progress(f"{self._name(entry)}: server, {self._plan.load} tokens")
        (turns,) = scenarios.in_turn([worker], asks[:10], WARM_UP)
        single = sorted(scenarios.milliseconds(turns.answers))[len(turns.answers) // 2]
        bound = self._plan.p95_ms or 5 * single
        tried = scenarios.highest_rate(worker, asks, single, bound, self._plan.seed)
        best = tried[-1]
        if best.held:
            tried[-1] = replace(best, chosen=True)
            tried.append(scenarios.offer(worker, asks, _BELOW_HIGHEST * best.rate, bound, self._plan.seed))
        for offered in tried:
            yield rate(entry, worker, self._plan.load, offered, bound, self._plan.seed)

    def _reference(self) -> list[Expected]:
        """Verdicts of the checkpoint's own weights in fp32."""
        checkpoint = self._subject.checkpoint
        if checkpoint is None or not self._plan.texts:
            return []
        self._progress(f"{self._subject.name}: reference verdicts in fp32")
        questions = self._questions.judged(self._plan.texts)
        manifest = open_guard(self._subject.guards[0].path, verify=False)
        source = Checkpoint(checkpoint)
        passes = [planned.request for planned in questions]
        scores = reference_scores(source, read_architecture(source), manifest.prefix, manifest.columns, passes)
        return [Expected.of(planned, pass_scores) for planned, pass_scores in zip(questions, scores, strict=True)]

    def _name(self, entry: Entry) -> str:
        return f"{self._subject.name}, {entry.contender.engine} {entry.contender.setting}"


def _asks(questions: Sequence[PlannedQuestion]) -> list[Question]:
    return [planned.question for planned in questions]


@contextlib.contextmanager
def _neighbours(count: int) -> Iterator[None]:
    """Processes that keep a core busy each."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()
