"""One thread of the process for a library that depends on the calling thread.

ONNX Runtime binds captured CUDA graphs to the capturing thread. A capture fails if another thread allocates or waits on
the GPU meanwhile (`cudaStreamCaptureModeGlobal`). One thread avoids both.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

from ..forks import renewed_in_child

T = TypeVar("T")


class SingleThread:
    """Runs functions one after another. Its thread starts with the first one, and is a daemon."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.after_fork()
        renewed_in_child(self)

    def after_fork(self) -> None:
        """In a forked process: forget the thread and its work."""
        self._work: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def run(self, function: Callable[[], T]) -> T:
        """Run a function in the thread and wait for it; returns its result or raises its error."""
        future: Future[T] = Future()
        self.post(lambda: _settle(future, function))
        return future.result()

    def post(self, function: Callable[[], object]) -> None:
        """Run a function in the thread without waiting for it. Its errors are dropped."""
        self._work.put(function)
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                    self._thread.start()

    def _serve(self) -> None:
        while True:
            _quietly(self._work.get())  # a call, so that no reference outlives the function


def _quietly(function: Callable[[], object]) -> None:
    try:
        function()
    except BaseException:  # from `post`; `run` has them in its future
        return


def _settle(future: "Future[T]", function: Callable[[], T]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
