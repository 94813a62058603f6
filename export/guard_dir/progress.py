"""How far an export is: a callback gets the work done and the work in all."""

from collections.abc import Callable

Progress = Callable[[int, int], None]  # done, total
Advance = Callable[[int], None]  # more work is done, in weights

_STEPS = 1000  # that a part of the work counts for


def no_progress(_done: int, _total: int) -> None:
    """Show nothing."""


def part(progress: Progress, number: int, parts: int) -> Progress:
    """The progress of one of several equal parts, shown as progress of the whole."""
    return lambda done, total: progress(number * _STEPS + done * _STEPS // total, parts * _STEPS)


def summed(total: int, progress: Progress) -> Advance:
    """A callback that adds up weights and shows their sum."""
    done = 0

    def advance(weights: int) -> None:
        nonlocal done
        done += weights
        progress(done, total)

    return advance
