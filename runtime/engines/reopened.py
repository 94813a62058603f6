"""Replaces an engine in a forked process: the first pass opens the model again."""

import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..errors import Unsupported
from ..plan import Pass
from ..stop import StopToken
from .base import Engine, Incremental, SessionEngine, run_pass


class Reopened:
    """Opens an engine with `again` at the first pass. While `again` fails, every pass raises its error."""

    def __init__(self, again: Callable[[], Engine]) -> None:
        self._again = again
        self._lock = threading.Lock()
        self._engine: Engine | None = None

    def run(self, request: Pass) -> npt.NDArray[np.float32]:
        """Scores [1, S, V']. Raises EngineError, GuardError."""
        return self._opened().run(request)

    def run_until(self, request: Pass, stop: StopToken) -> npt.NDArray[np.float32]:
        """Like `run`. A stop aborts it if the engine can."""
        return run_pass(self._opened(), request, stop)

    def _opened(self) -> Engine:
        with self._lock:
            if self._engine is None:
                self._engine = self._again()
            return self._engine


class ReopenedIncremental(Reopened):
    """A reopened engine that supports sessions."""

    def session(self) -> SessionEngine:
        """Begin a session. Raises EngineError, GuardError."""
        engine = self._opened()
        if not isinstance(engine, Incremental):
            raise Unsupported("the reopened engine cannot reuse keys and values; load the guard again")
        return engine.session()


def reopened(before: Engine, again: Callable[[], Engine]) -> Reopened:
    """A replacement for an engine of the parent."""
    return (ReopenedIncremental if isinstance(before, Incremental) else Reopened)(again)
