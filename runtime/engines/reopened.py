"""An engine in a process that was forked after its parent had opened it: opened again by the first pass."""

import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..errors import Unsupported
from ..plan import Pass
from ..stop import StopToken
from .base import Engine, Incremental, SessionEngine, run_pass


class Reopened:
    """Runs what the engine runs that `again` opens. Passes raise what `again` does, each time anew."""

    def __init__(self, again: Callable[[], Engine]) -> None:
        self._again = again
        self._lock = threading.Lock()
        self._engine: Engine | None = None

    def run(self, request: Pass) -> npt.NDArray[np.float32]:
        """Scores [1, S, V']. Raises EngineError, GuardError."""
        return self._opened().run(request)

    def run_until(self, request: Pass, stop: StopToken) -> npt.NDArray[np.float32]:
        """The same; stopped while it runs where the engine can be."""
        return run_pass(self._opened(), request, stop)

    def _opened(self) -> Engine:
        with self._lock:
            if self._engine is None:
                self._engine = self._again()
            return self._engine


class ReopenedIncremental(Reopened):
    """One that can make engines for texts that grow."""

    def session(self) -> SessionEngine:
        """Raises EngineError, GuardError."""
        engine = self._opened()
        if not isinstance(engine, Incremental):
            raise Unsupported("the engine that was opened again keeps no keys and values")
        return engine.session()


def reopened(before: Engine, again: Callable[[], Engine]) -> Reopened:
    """An engine in place of the one before."""
    return (ReopenedIncremental if isinstance(before, Incremental) else Reopened)(again)
