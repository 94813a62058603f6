"""Cancellation: one thread stops a request that another thread runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import GuardpassError


class StopToken:
    """Cancels one request, cooperatively. The first stop reason counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reason: GuardpassError | None = None
        self._end: Callable[[], None] | None = None

    def request(self, reason: GuardpassError) -> None:
        """Stop before the next pass, or during the current one if the engine can abort it."""
        with self._lock:
            self._reason = self._reason or reason
            if self._end is not None:
                self._end()

    @property
    def requested(self) -> bool:
        """Whether a stop was requested."""
        return self._reason is not None

    def check(self) -> None:
        """Raises the stop reason, if there is one."""
        if self._reason is not None:
            raise self._reason

    @contextmanager
    def ends(self, end: Callable[[], None]) -> Iterator[None]:
        """Calls `end` from any thread to abort the pass; re-raises the stop reason."""
        with self._lock:
            self.check()
            self._end = end
        try:
            yield
        except Exception:
            self.check()  # a stop explains the failure
            raise
        finally:
            with self._lock:
                self._end = None
