"""Runs plans: one at a time, or several in lockstep on a batching engine."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from .decide import Outcome
from .errors import GuardpassError, as_guardpass_error
from .judge import Judge, Plan
from .plan import Pass
from .request import Request
from .stop import StopToken
from .verdict import Milliseconds, Verdict

Scores = npt.NDArray[np.float32]


class Run:
    """One request: plans it, then takes the scores of its passes in order. Bad scores end it at once."""

    def __init__(self, judge: Judge, request: Request, *, waited: float = 0.0, stop: StopToken | None = None) -> None:
        """waited: seconds in the queue. Raises the errors of `Judge.plan`."""
        self._judge = judge
        self._waited = waited
        self._stop = stop
        self._began = time.perf_counter()
        self.plan: Plan = judge.plan(request)
        self._planned = time.perf_counter()
        self._outcomes: list[tuple[Outcome, ...]] = []
        self._reused = 0

    @property
    def next(self) -> Pass | None:
        """The next pass; None after the last. Raises the stop reason if the request was stopped."""
        if self._stop is not None:
            self._stop.check()
        return self.plan.passes[len(self._outcomes)] if len(self._outcomes) < len(self.plan.passes) else None

    @property
    def form(self) -> int:
        """The index of the form that the next pass reads."""
        return self.plan.forms[len(self._outcomes)]

    def take(self, scores: Scores, reused: int = 0) -> None:
        """Decide from the scores [1, S, V'] of the next pass. Raises BadScores."""
        self._outcomes.append(self.plan.decide(scores))
        self._reused += reused

    def verdict(self) -> Verdict:
        """The verdict, after the last pass."""
        ended = time.perf_counter()
        ms = Milliseconds(
            queue=self._waited * 1e3,
            tokenize=(self._planned - self._began) * 1e3,
            run=(ended - self._planned) * 1e3,
            total=(self._waited + ended - self._began) * 1e3,
        )
        return self._judge.verdict(self.plan, self._outcomes, ms, reused=self._reused)


def run_together(
    starts: Sequence[Callable[[], Run]], execute: Callable[[Sequence[Pass]], Sequence[Scores]]
) -> list[Verdict | GuardpassError]:
    """The verdict or the error of each request. A request fails alone.

    Each round executes the next pass of every unfinished request. If `execute` fails, every request of the round fails.
    """
    answers: list[Verdict | GuardpassError | None] = [None] * len(starts)
    runs: dict[int, Run] = {}
    for index, start in enumerate(starts):
        try:
            runs[index] = start()
        except Exception as error:
            answers[index] = as_guardpass_error(error)
    while runs:
        due: dict[int, Pass] = {}
        for index, run in list(runs.items()):
            try:
                request = run.next
                if request is None:
                    answers[index] = run.verdict()
                else:
                    due[index] = request
            except Exception as error:
                answers[index] = as_guardpass_error(error)
        runs = {index: runs[index] for index in due}
        if not due:
            break
        try:
            scores = execute(list(due.values()))
        except Exception as error:
            answers = [as_guardpass_error(error) if index in due else answer for index, answer in enumerate(answers)]
            break
        for index, values in zip(due, scores, strict=True):
            try:
                runs[index].take(values)
            except Exception as error:
                answers[index] = as_guardpass_error(error)
                del runs[index]
    return [answer for answer in answers if answer is not None]
