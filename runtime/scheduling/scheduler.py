"""One guard's requests, in turn: admitted or refused at once, run one after another, given up at their deadlines.

A pass uses every core, so passes side by side would only make each other late, and batches gain nothing on a CPU: one
thread runs the requests. On an engine that gains from them, a request takes along in its turn what waits and is like
it; none waits for others to come. Another thread, the watch, fails each request at its deadline, whether it waits or
runs. A pass that does not end `PATIENCE` seconds after it was asked to is taken for hung: the requests behind it go on
in a new thread. What is done when, the dispatcher says; here are the threads, the lock and the clock.
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
    """Runs what is submitted. Threads start with the first request."""

    _started: bool
    _alarm: float  # when the watch wakes next

    def __init__(self, name: str, bounds: Bounds) -> None:
        self._name, self._bounds = name, bounds
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
        """Run `work(stop, seconds waited)` in its turn; passes, tokens: what it is estimated to take, for admission.

        timeout: seconds from now until the request is given up. Higher priorities go first. fallback: the result in
        place of a failure, or it raises. batch: what is run in place of `work`, maybe together with others.
        Raises Overloaded where it may not wait or could not be done in time, Closed, EngineError where passes hang.
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
        """Admit nothing more and wait until everything is answered; whether it was, in `timeout` seconds.

        What is left then fails with Closed. Hung passes were answered at their deadlines and are not waited for.
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
        """Requests and tokens, waiting and running, that somebody waits for."""
        with self._lock:
            return self._dispatcher.load

    @property
    def hung(self) -> int:
        """Passes that should have ended and did not."""
        return len(self._dispatcher.hung)

    def after_fork(self) -> None:
        """In a forked process: its threads are not there, nor who would answer what was submitted."""
        before, lost = self._dispatcher, list(self._unanswered)
        self._dispatcher = Dispatcher(self._bounds, before.latency)
        self._dispatcher.closed = before.closed
        self._begin()
        for entry in lost:
            entry.ticket.after_fork()
            fail(entry, Closed("the process was forked before the verdict, which its parent has; submit it again here"))

    def _begin(self) -> None:
        # Reentrant, as garbage may be collected while it is held, and a guard's end closes its scheduler.
        self._lock = threading.RLock()
        self._arrived = threading.Condition(self._lock)
        self._earlier = threading.Condition(self._lock)  # a deadline before the one the watch waits for, or the end
        self._answered = threading.Condition(self._lock)
        self._started = False
        self._alarm = float("inf")
        self._unanswered: WeakSet[Entry] = WeakSet()  # and some that are answered, by the time

    def _start(self, target: Callable[[], None]) -> None:
        threading.Thread(target=target, name=f"guardpass {self._name}", daemon=True).start()

    def _discard(self, entry: Entry) -> None:
        with self._lock:
            self._dispatcher.waiting.discard(entry)
            self._answered.notify_all()

    def _work(self) -> None:
        while self._turn():
            pass  # nothing of a request is held while the next is waited for

    def _turn(self) -> bool:
        """Run what is next; False when closed, or when another thread has taken this one's place."""
        turn = self._next()
        if turn is None:
            return False
        finished = turn.run()
        with self._lock:
            goes_on = self._dispatcher.ended(turn, time.monotonic(), finished=finished)
            self._answered.notify_all()
            if self._dispatcher.closed:
                self._earlier.notify()  # it ends with the last request
            return goes_on

    def _next(self) -> Turn | None:
        with self._lock:
            while (turn := self._dispatcher.next(time.monotonic())) is None:
                if self._dispatcher.closed:
                    return None
                self._arrived.wait()
            return turn

    def _watch(self) -> None:
        """Fail what is late, ask late passes to end, and replace the thread of one that does not."""
        while True:
            with self._lock:
                dispatcher = self._dispatcher
                if dispatcher.closed and not dispatcher.waiting and not dispatcher.running:
                    return
                now = time.monotonic()
                self._alarm = dispatcher.alarm()
                if self._alarm > now:
                    self._earlier.wait(min(self._alarm - now, threading.TIMEOUT_MAX))
                    self._alarm = float("-inf")  # awake: nobody need wake it
                    now = time.monotonic()
                late, threads = dispatcher.late(now)
                for _ in range(threads):
                    self._start(self._work)
            for entry, did in late:
                waited = f"no verdict {now - entry.since:.3f} s after the request came, at its deadline"
                fail(entry, DeadlineExceeded(f"{waited}; it {did}"))
