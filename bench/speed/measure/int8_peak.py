"""The int8 peak of products that never leave registers. It takes milliseconds, so each request can have its own."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

from guardpass.engines.native import library

_SECONDS = 0.02  # enough for cores to reach the clock at which wide vectors run

Peak = Callable[[], float]  # GOP/s, now


def peak_of(threads: int, seconds: float = _SECONDS) -> Peak | None:
    """A function that measures the peak of `threads` threads; None without guardpass-kernels."""
    return (lambda: library().peak(threads, seconds) / 1e9) if find_spec("guardpass_kernels") else None


@contextmanager
def bound(cores: Sequence[int] | None) -> Iterator[None]:
    """Bind this thread, and the threads that it starts, to the named cores for a while."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
