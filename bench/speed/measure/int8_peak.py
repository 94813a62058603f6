"""The int8 peak of products that never leave registers: taken in milliseconds, so beside every request."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

from guardpass.engines.native import library

_SECONDS = 0.02  # enough for cores to come to the clock that wide vectors run at

Peak = Callable[[], float]  # GOP/s, now


def peak_of(threads: int, seconds: float = _SECONDS) -> Peak | None:
    """What takes the peak of so many threads. None without guardpass-kernels."""
    return (lambda: library().peak(threads, seconds) / 1e9) if find_spec("guardpass_kernels") else None


@contextmanager
def bound(cores: Sequence[int] | None) -> Iterator[None]:
    """This thread, and those it starts, on the named cores for a while."""
    if cores is None:
        yield
        return
    kept = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, kept)
