"""One thread of the process for a library that knows the threads which call it.

ONNX Runtime keeps captured CUDA graphs with the thread that captured them, and a capture fails when another thread
allocates or waits on the GPU meanwhile (`cudaStreamCaptureModeGlobal`). In one thread neither can happen.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

from ..forks import renewed_in_child

T = TypeVar("T")


class SingleThread:
    """Runs what it is given, one after another. Its thread starts with the first, and does not keep a process alive."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.after_fork()
        renewed_in_child(self)

    def after_fork(self) -> None:
        """In a forked process it has no thread, and nothing to do."""
        self._work: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def run(self, function: Callable[[], T]) -> T:
        """The result of `function`, or what it raises, from the lane's thread; waits for it."""
        future: Future[T] = Future()
        self.post(lambda: _settle(future, function))
        return future.result()

    def post(self, function: Callable[[], object]) -> None:
        """Run a function in its turn, without waiting for it; what it raises is dropped."""
        self._work.put(function)
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                    self._thread.start()

    def _serve(self) -> None:
        while True:
            _quietly(self._work.get())  # nothing of a request is held while the next is waited for


def _quietly(function: Callable[[], object]) -> None:
    try:
        function()
    except BaseException:  # of a `post`; those of a `run` are in its future
        return


def _settle(future: "Future[T]", function: Callable[[], T]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
