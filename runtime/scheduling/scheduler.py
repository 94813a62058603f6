"""The queue of one guard: admits or refuses requests at once, runs them in order, and fails them at their deadlines.

One thread runs the requests. A pass uses every core, so concurrent passes only delay each other, and batches gain
nothing on a CPU. On an engine that gains from batches, a turn includes the waiting requests of the same key; no request
waits for a batch to fill. A second thread, the watch, fails each request at its deadline, waiting or running. A pass
that does not end `PATIENCE` seconds after its deadline counts as hung, and a replacement thread runs the requests
behind it. The dispatcher decides; this module has the threads, the lock and the clock.
"""

import threading
import time
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from ..errors import Closed, DeadlineExceeded, GuardpassError
from ..forks import renewed_in_child
from ..stop import StopToken
from .batch import Turn, fail
from .dispatcher import Dispatcher
from .queue import Batch, Bounds, Entry, Ticket, check_timing


def _raise(error: GuardpassError) -> Any:
    raise error


class Scheduler:
    """Runs submitted requests. Its threads start with the first one."""

    _started: bool
    _alarm: float  # when the watch wakes next

    def __init__(self, name: str, bounds: Bounds) -> None:
        self._name = name
        self._bounds = bounds
        self._dispatcher = Dispatcher(bounds)
        self._begin()
        renewed_in_child(self)

    def submit(
        self,
        work: Callable[[StopToken, float], Any],
        *,
        tokens: int,
        passes: int = 1,
        timeout: float | None = None,
        priority: int = 0,
        fallback: Callable[[GuardpassError], Any] = _raise,
        batch: Batch | None = None,
    ) -> Ticket:
        """Queue `work(stop, seconds waited)`.

        tokens, passes: estimates for admission.
        timeout: seconds from now to the deadline.
        priority: higher ones run first.
        fallback: returns a result in place of a failure, or raises.
        batch: replaces `work`, and may run together with others.

        Raises Overloaded if the queue is full or the deadline cannot be met, Closed, EngineError if passes hang.
        """
        check_timing(timeout, priority)
        now = time.monotonic()
        deadline = now + (float("inf") if timeout is None else float(timeout))
        entry = Entry(work, fallback, max(tokens, 1), deadline, now, int(priority), max(passes, 1), batch)
        with self._lock:
            try:
                self._dispatcher.admit(entry, now)
            except GuardpassError as error:
                entry.ticket.set_result(fallback(error))
                return entry.ticket
            self._unanswered.add(entry)
            if not self._started:
                self._started = True
                self._start(self._watch)
                self._start(self._work)
            self._arrived.notify()
            if entry.deadline < self._alarm:
                self._earlier.notify()
        entry.ticket.add_done_callback(lambda _: self._discard(entry))
        return entry.ticket

    def close(self, timeout: float | None = None) -> bool:
        """Refuse new requests and wait up to `timeout` seconds; returns whether every request had its answer.

        The remaining requests fail with Closed. Requests of hung passes failed at their deadlines.
        """
        with self._lock:
            self._dispatcher.closed = True
            self._arrived.notify_all()
            self._earlier.notify_all()
            self._answered.wait_for(lambda: self._dispatcher.idle, timeout)
            left = self._dispatcher.drain()
        for entry in left:
            fail(entry, Closed("the guard was closed before the verdict"))
        return not left

    @property
    def load(self) -> tuple[int, int]:
        """Awaited requests and their tokens, waiting and running."""
        with self._lock:
            return self._dispatcher.load

    @property
    def hung(self) -> int:
        """The number of hung passes."""
        return len(self._dispatcher.hung)

    def after_fork(self) -> None:
        """In a forked process, which lacks the threads: renew the locks and fail the submitted requests."""
        before = self._dispatcher
        lost = list(self._unanswered)
        self._dispatcher = Dispatcher(self._bounds, before.latency)
        self._dispatcher.closed = before.closed
        self._begin()
        for entry in lost:
            entry.ticket.after_fork()
            fail(entry, Closed("the process was forked before the verdict, which its parent has; submit it again here"))

    def _begin(self) -> None:
        # Reentrant: garbage collection may run while it is held, and collecting a guard closes its scheduler.
        self._lock = threading.RLock()
        self._arrived = threading.Condition(self._lock)
        self._earlier = threading.Condition(self._lock)  # an earlier deadline than `_alarm`, or the end
        self._answered = threading.Condition(self._lock)
        self._started = False
        self._alarm = float("inf")
        self._unanswered: WeakSet[Entry] = WeakSet()  # and answered ones until they are collected

    def _start(self, target: Callable[[], None]) -> None:
        threading.Thread(target=target, name=f"guardpass {self._name}", daemon=True).start()

    def _discard(self, entry: Entry) -> None:
        with self._lock:
            self._dispatcher.waiting.discard(entry)
            self._answered.notify_all()

    def _work(self) -> None:
        while self._turn():
            pass  # a call of its own, so that no reference to a request outlives its turn

    def _turn(self) -> bool:
        """Run the next turn. Returns False once closed, or when a replacement thread has taken over."""
        turn = self._next()
        if turn is None:
            return False
        finished = turn.run()
        with self._lock:
            goes_on = self._dispatcher.ended(turn, time.monotonic(), finished=finished)
            self._answered.notify_all()
            if self._dispatcher.closed:
                self._earlier.notify()  # the watch ends with the last request
            return goes_on

    def _next(self) -> Turn | None:
        with self._lock:
            while (turn := self._dispatcher.next(time.monotonic())) is None:
                if self._dispatcher.closed:
                    return None
                self._arrived.wait()
            return turn

    def _watch(self) -> None:
        """Fail late requests, stop late passes, and replace the thread of a hung pass."""
        while True:
            with self._lock:
                dispatcher = self._dispatcher
                if dispatcher.closed and not dispatcher.waiting and not dispatcher.running:
                    return
                now = time.monotonic()
                self._alarm = dispatcher.alarm()
                if self._alarm > now:
                    self._earlier.wait(min(self._alarm - now, threading.TIMEOUT_MAX))
                    self._alarm = float("-inf")  # awake, so `submit` need not notify it
                    now = time.monotonic()
                late, threads = dispatcher.late(now)
                for _ in range(threads):
                    self._start(self._work)
            for entry, state in late:
                waited = f"no verdict {now - entry.since:.3f} s after the request came, at its deadline"
                fail(entry, DeadlineExceeded(f"{waited}; it {state}"))
