"""One guard's requests, in turn: admitted or refused at once, run one after another, given up at their deadlines.

A pass uses every core, so passes side by side would only make each other late, and batches gain nothing on a CPU: one
thread runs the requests. Another, the watch, fails each request at its deadline, whether it waits or runs. A pass that
does not end `PATIENCE` seconds after it was asked to is taken for hung: the requests behind it go on in a new thread.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import InvalidStateError
from contextlib import suppress
from typing import Any

from .errors import Closed, DeadlineExceeded, EngineError, GuardpassError, InputError, Overloaded
from .pace import Pace
from .stop import Stop
from .waiting import Bounds, Entry, Ticket, Waiting

PATIENCE = 1.0
MOST_HUNG = 4  # threads that are given up; then everything fails until one comes back
_SOONEST = 0.1  # seconds; what a refused caller is told at least


def _raise(error: GuardpassError) -> Any:
    raise error


class Scheduler:
    """Runs what is submitted. Threads start with the first request."""

    def __init__(self, name: str, bounds: Bounds) -> None:
        self._name, self._waiting, self._pace = name, Waiting(bounds), Pace()
        # Reentrant, as garbage may be collected while it is held, and a guard's end closes its scheduler.
        self._lock = threading.RLock()
        self._arrived = threading.Condition(self._lock)
        self._earlier = threading.Condition(self._lock)  # a deadline before the one the watch waits for, or the end
        self._answered = threading.Condition(self._lock)
        self._started = False
        self._running: dict[Entry, float] = {}  # since when
        self._hung: set[Entry] = set()
        self._alarm = float("inf")
        self._closed = False

    def submit(
        self,
        work: Callable[[Stop, float], Any],
        *,
        tokens: int,
        timeout: float | None = None,
        priority: int = 0,
        fallback: Callable[[GuardpassError], Any] = _raise,
    ) -> Ticket:
        """Run `work(stop, seconds waited)` in its turn; tokens: what it is estimated to take, for admission.

        timeout: seconds from now until the request is given up. Higher priorities go first. fallback: the result in
        place of a failure, or it raises.
        Raises Overloaded where it may not wait or could not be done in time, Closed, EngineError where passes hang.
        """
        if timeout is not None and not 0 < timeout < float("inf"):
            raise InputError(f"timeout is {timeout!r}, expected seconds above 0")
        now = time.monotonic()
        entry = Entry(work, fallback, max(tokens, 1), now + (timeout or float("inf")), now, priority)
        with self._lock:
            try:
                self._admit(entry, now)
            except GuardpassError as error:
                entry.ticket.set_result(fallback(error))
                return entry.ticket
            self._waiting.add(entry)
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
            self._closed = True
            self._arrived.notify_all()
            self._earlier.notify_all()
            self._answered.wait_for(lambda: not self._waiting and self._running.keys() <= self._hung, timeout)
            left = [*self._waiting.drain(), *(self._running.keys() - self._hung)]
        for entry in left:
            _fail(entry, Closed("the guard was closed before the verdict"))
        return not left

    @property
    def load(self) -> tuple[int, int]:
        """Requests and tokens, waiting and running."""
        with self._lock:
            return len(self._waiting) + len(self._running), self._waiting.tokens + sum(e.tokens for e in self._running)

    @property
    def hung(self) -> int:
        """Passes that should have ended and did not."""
        return len(self._hung)

    def _admit(self, entry: Entry, now: float) -> None:
        """Raises what forbids it. Something is always let in where nothing waits or runs, or no pace is ever learnt."""
        if self._closed:
            raise Closed("the guard is closed; load it again")
        if len(self._hung) >= MOST_HUNG:
            raise EngineError(f"{len(self._hung)} passes hang; the guard serves nothing until one of them ends")
        ahead = sum(max(0.0, self._pace.seconds(e.tokens) - (now - since)) for e, since in self._running.items())
        ahead += self._pace.seconds(self._waiting.tokens)
        if not self._waiting.admits(entry.tokens):
            raise Overloaded(
                f"{len(self._waiting)} requests of about {self._waiting.tokens} tokens wait, as many as may; "
                f"try again in {max(ahead, _SOONEST):.1f} s",
                max(ahead, _SOONEST),
            )
        left = entry.deadline - now - self._pace.seconds(entry.tokens)
        if (self._running or self._waiting) and ahead > left:
            wait = max(ahead - left, _SOONEST)
            raise Overloaded(
                f"about {ahead:.1f} s of work is ahead, too much for a deadline in {entry.deadline - now:.1f} s; "
                f"try again in {wait:.1f} s",
                wait,
            )

    def _start(self, target: Callable[[], None]) -> None:
        threading.Thread(target=target, name=f"guardpass {self._name}", daemon=True).start()

    def _discard(self, entry: Entry) -> None:
        with self._lock:
            self._waiting.discard(entry)
            self._answered.notify_all()

    def _work(self) -> None:
        while self._turn():
            pass  # nothing of a request is held while the next is waited for

    def _turn(self) -> bool:
        """Run one request; False when closed, or when another thread has taken this one's place."""
        entry = self._next()
        if entry is None:
            return False
        began, ran = self._running[entry], False
        if entry.ticket.set_running_or_notify_cancel():
            try:
                result = entry.work(entry.ticket.stop, began - entry.since)
                ran = True
                _settle(entry, result)
            except GuardpassError as error:
                _fail(entry, error)
            except Exception as error:  # its message may quote the text
                failure = EngineError(f"the check failed unexpectedly, with {type(error).__name__}")
                failure.__cause__ = error
                _fail(entry, failure)
        with self._lock:
            del self._running[entry]
            if ran:
                self._pace.ran(entry.tokens, time.monotonic() - began)
            self._answered.notify_all()
            if self._closed:
                self._earlier.notify()  # it ends with the last request
            if entry not in self._hung:
                return True
            self._hung.discard(entry)
            return False

    def _next(self) -> Entry | None:
        with self._lock:
            while (entry := self._waiting.take()) is None:
                if self._closed:
                    return None
                self._arrived.wait()
            self._running[entry] = time.monotonic()
            return entry

    def _watch(self) -> None:
        """Fail what is late, ask late passes to end, and replace the thread of one that does not."""
        while True:
            with self._lock:
                if self._closed and not self._waiting and not self._running:
                    return
                now = time.monotonic()
                # Those that run have been failed already when their patience ends.
                ends = [e.deadline + PATIENCE * e.ticket.done() for e in self._running if e not in self._hung]
                self._alarm = min([self._waiting.earliest(), *ends])
                if self._alarm > now:
                    self._earlier.wait(None if self._alarm == float("inf") else self._alarm - now)
                    self._alarm = float("-inf")  # awake: nobody need wake it
                    now = time.monotonic()
                late = self._waiting.expired(now)
                running = [e for e in self._running if e.deadline <= now and not e.ticket.done()]
                for entry in [e for e in self._running if e.deadline + PATIENCE <= now and e not in self._hung]:
                    self._hung.add(entry)
                    if len(self._hung) < MOST_HUNG:
                        self._start(self._work)
                    else:
                        late += self._waiting.drain()
            for entry, did in [*((e, "waited") for e in late), *((e, "ran") for e in running)]:
                waited = f"no verdict {now - entry.since:.3f} s after the request came, at its deadline"
                _fail(entry, DeadlineExceeded(f"{waited}; it {did}"))


def _fail(entry: Entry, error: GuardpassError) -> None:
    entry.ticket.stop.request(error)
    with suppress(InvalidStateError):  # answered, or cancelled, a moment before
        try:
            entry.ticket.set_result(entry.fallback(error))
        except GuardpassError as failure:
            entry.ticket.set_exception(failure)


def _settle(entry: Entry, result: Any) -> None:
    with suppress(InvalidStateError):
        entry.ticket.set_result(result)
