"""The scenarios (MLPerf's terms): single in turn with others, server with arrivals that wait for nobody, offline."""

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ...peers.protocol import Answer, Question
from ..report.schema import Summary
from ..report.statistics import summary
from .arrivals import arrivals
from .int8_peak import Peak

_REST_S = 0.1  # engines' threads spin for a while after a pass, and would slow the next
_STEPS = 4  # of the search for a rate: to a sixteenth of its range


class Asks(Protocol):
    """The part of a worker that a scenario uses."""

    def ask(self, questions: Sequence[Question]) -> list[Answer]: ...
    def send(self, question: Question) -> None: ...
    def receive(self) -> Answer: ...


@dataclass(frozen=True)
class Turns:
    """A worker's answers, and the machine's peak right before each request; [] where it is not measured."""

    answers: list[Answer]
    peaks: list[float]


def in_turn(
    workers: Sequence[Asks], questions: Sequence[Question], warm_up: int, peak: Peak | None = None
) -> list[Turns]:
    """Every worker's answer to each question, one at a time, in an order drawn anew for each; less the warm-up's.

    peak: taken while all workers rest.
    """
    turns = [Turns([], []) for _ in workers]
    order = random.Random(0)
    for question in questions:
        for index in order.sample(range(len(workers)), len(workers)):
            time.sleep(_REST_S)
            turns[index].peaks.extend([peak()] if peak else [])
            turns[index].answers.extend(workers[index].ask([question]))
    return [Turns(turn.answers[warm_up:], turn.peaks[warm_up:]) for turn in turns]


def milliseconds(answers: Sequence[Answer]) -> tuple[float, ...]:
    """The time of each answer, without the transfer to the process and back."""
    return tuple((answer["ended"] - answer["started"]) * 1e3 for answer in answers)


def open_loop(worker: Asks, questions: Sequence[Question], times: Sequence[float]) -> tuple[list[float], float]:
    """Ms from when each question was meant to be sent, at `times` in seconds, to its answer; and seconds in all.

    Nobody waits for an answer before sending: a worker that stalls makes all that arrive meanwhile late.
    """
    start = time.perf_counter() + 0.05

    def sender() -> None:
        for question, at in zip(questions, times, strict=True):
            time.sleep(max(0.0, start + at - time.perf_counter()))
            worker.send(question)

    thread = threading.Thread(target=sender, daemon=True)
    thread.start()
    answers = [worker.receive() for _ in questions]
    thread.join()
    late = [(answer["ended"] - start - at) * 1e3 for answer, at in zip(answers, times, strict=True)]
    return late, answers[-1]["ended"] - start - times[0]


@dataclass(frozen=True)
class Offered:
    """The outcome of one rate, in requests per second."""

    rate: float
    served: float
    ms: Summary
    samples: tuple[float, ...]
    held: bool | None  # whether p95 was within the bound; None where there are too few requests for one
    chosen: bool = False


def offer(worker: Asks, questions: Sequence[Question], rate: float, bound_ms: float, seed: int) -> Offered:
    """Send all questions, arriving at `rate` in the mean."""
    times = arrivals(rate, len(questions), seed).tolist()
    late, seconds = open_loop(worker, questions, times)
    ms = summary(late)
    return Offered(rate, len(questions) / seconds, ms, tuple(late), None if ms.p95 is None else ms.p95 <= bound_ms)


def highest_rate(
    worker: Asks, questions: Sequence[Question], single_ms: float, bound_ms: float, seed: int
) -> list[Offered]:
    """Rates tried between none and all that one request at a time would allow, by halving; the best that held last.

    Every rate has the same trace, stretched. Without a rate that held, the list is of those that did not.
    """
    low, high, tried = 0.0, 1e3 / single_ms, []
    for _ in range(_STEPS):
        tried.append(offer(worker, questions, (low + high) / 2, bound_ms, seed))
        low, high = (tried[-1].rate, high) if tried[-1].held else (low, tried[-1].rate)
    return sorted(tried, key=lambda offered: (bool(offered.held), offered.rate))


def offline(worker: Asks, questions: Sequence[Question]) -> float:
    """Seconds for all questions at once."""
    answers = worker.ask(questions)
    return max(answer["ended"] for answer in answers) - min(answer["started"] for answer in answers)
