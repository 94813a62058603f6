"""How one thread asks a pass that runs in another to end early."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import GuardpassError


class StopToken:
    """Given to a request before it runs; the first reason to stop is kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._why: GuardpassError | None = None
        self._end: Callable[[], None] | None = None

    def request(self, why: GuardpassError) -> None:
        """Stop as soon as can be: before the next pass, and during one where the engine allows."""
        with self._lock:
            self._why = self._why or why
            if self._end is not None:
                self._end()

    @property
    def requested(self) -> bool:
        """Whether it was given a reason."""
        return self._why is not None

    def check(self) -> None:
        """Raises what was given to `request`, if anything was."""
        if self._why is not None:
            raise self._why

    @contextmanager
    def ends(self, end: Callable[[], None]) -> Iterator[None]:
        """While a pass runs: `end` is called, from any thread, to make it fail. Raises the reason where it did."""
        with self._lock:
            self.check()
            self._end = end
        try:
            yield
        except Exception:
            self.check()  # the failure is what was asked for
            raise
        finally:
            with self._lock:
                self._end = None
