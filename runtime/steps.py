"""A request as the passes it needs, one after another: run alone, or side by side with others."""

from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .errors import EngineError, GuardpassError
from .passes import Pass
from .stop import Stop

T = TypeVar("T")
Scores = npt.NDArray[np.float32]
# Yields a pass, is sent its scores [1, S, V'], and returns what the request comes to.
Steps = Generator[Pass, Scores, T]


def alone(steps: Steps[T], run: Callable[[Pass], Scores]) -> T:
    """The result of a request. Raises what it does, and what `run` does."""
    try:
        request = next(steps)
        while True:
            request = steps.send(run(request))
    except StopIteration as ended:
        result: T = ended.value
        return result


def together(
    requests: Sequence[tuple[Steps[Any], Stop]], run: Callable[[Sequence[Pass]], Sequence[Scores]]
) -> list[Any]:
    """What each of several requests comes to, or the GuardpassError it fails with: it fails alone.

    Each round runs the next pass of all that have one. A request that is asked to stop is left out of the next round;
    where `run` fails, those of the round fail.
    """
    results: list[Any] = [None] * len(requests)
    waiting: dict[int, Pass] = {}

    def step(index: int, scores: Scores | None) -> None:
        steps, stop = requests[index]
        try:
            stop.check()
            waiting[index] = next(steps) if scores is None else steps.send(scores)
        except StopIteration as ended:
            results[index] = ended.value
        except Exception as error:
            results[index] = known(error)

    for index in range(len(requests)):
        step(index, None)
    while waiting:
        passes, waiting = waiting, {}
        try:
            found = run(list(passes.values()))
        except Exception as error:
            for index in passes:
                results[index] = known(error)
            continue
        for index, scores in zip(passes, found, strict=True):
            step(index, scores)
    return results


def known(error: Exception) -> GuardpassError:
    """The error as one of ours, without its message, which may quote the text."""
    if isinstance(error, GuardpassError):
        return error
    failure = EngineError(f"the check failed unexpectedly, with {type(error).__name__}")
    failure.__cause__ = error
    return failure
