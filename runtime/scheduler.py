"""One guard's requests, in turn: admitted or refused at once, run one after another, given up at their deadlines.

A pass uses every core, so passes side by side would only make each other late, and batches gain nothing on a CPU: one
thread runs the requests. On an engine that gains from them, a request takes along in its turn what waits and is like
it; none waits for others to come. Another thread, the watch, fails each request at its deadline, whether it waits or
runs. A pass that does not end `PATIENCE` seconds after it was asked to is taken for hung: the requests behind it go on
in a new thread.
"""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from .errors import Closed, DeadlineExceeded, EngineError, GuardpassError, InputError, Overloaded
from .pace import Pace
from .stop import Stop
from .turn import Turn, fail
from .waiting import Batch, Bounds, Entry, Ticket, Waiting

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
        self._running: set[Turn] = set()
        self._hung: set[Turn] = set()
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
        batch: Batch | None = None,
    ) -> Ticket:
        """Run `work(stop, seconds waited)` in its turn; tokens: what it is estimated to take, for admission.

        timeout: seconds from now until the request is given up. Higher priorities go first. fallback: the result in
        place of a failure, or it raises. batch: what is run in place of `work`, maybe together with others.
        Raises Overloaded where it may not wait or could not be done in time, Closed, EngineError where passes hang.
        """
        if timeout is not None and not 0 < timeout < float("inf"):
            raise InputError(f"timeout is {timeout!r}, expected seconds above 0")
        now = time.monotonic()
        entry = Entry(work, fallback, max(tokens, 1), now + (timeout or float("inf")), now, priority, batch)
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
            self._answered.wait_for(lambda: not self._waiting and self._running <= self._hung, timeout)
            left = [*self._waiting.drain(), *(e for turn in self._running - self._hung for e in turn.entries)]
        for entry in left:
            fail(entry, Closed("the guard was closed before the verdict"))
        return not left

    @property
    def load(self) -> tuple[int, int]:
        """Requests and tokens, waiting and running."""
        with self._lock:
            running = [entry.tokens for _, entry in self._runs()]
            return len(self._waiting) + len(running), self._waiting.tokens + sum(running)

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
        ahead = sum(max(0.0, self._pace.seconds(turn.tokens) - (now - turn.began)) for turn in self._running)
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
        """Run what is next; False when closed, or when another thread has taken this one's place."""
        turn = self._next()
        if turn is None:
            return False
        tokens = turn.run()
        with self._lock:
            self._running.discard(turn)
            if tokens:
                self._pace.ran(tokens, time.monotonic() - turn.began)
            self._answered.notify_all()
            if self._closed:
                self._earlier.notify()  # it ends with the last request
            if turn not in self._hung:
                return True
            self._hung.discard(turn)
            return False

    def _next(self) -> Turn | None:
        with self._lock:
            while (entry := self._waiting.take()) is None:
                if self._closed:
                    return None
                self._arrived.wait()
            turn = Turn([entry, *self._waiting.companions(entry)], time.monotonic())
            self._running.add(turn)
            return turn

    def _runs(self) -> Iterator[tuple[Turn, Entry]]:
        return ((turn, entry) for turn in self._running for entry in turn.entries)

    def _watch(self) -> None:
        """Fail what is late, ask late passes to end, and replace the thread of one that does not."""
        while True:
            with self._lock:
                if self._closed and not self._waiting and not self._running:
                    return
                now = time.monotonic()
                # Those that run have been failed already when their patience ends.
                ends = [e.deadline + PATIENCE * e.ticket.done() for turn, e in self._runs() if turn not in self._hung]
                self._alarm = min([self._waiting.earliest(), *ends])
                if self._alarm > now:
                    self._earlier.wait(None if self._alarm == float("inf") else self._alarm - now)
                    self._alarm = float("-inf")  # awake: nobody need wake it
                    now = time.monotonic()
                late = self._waiting.expired(now)
                running = [e for _, e in self._runs() if e.deadline <= now and not e.ticket.done()]
                for hung in {turn for turn, e in self._runs() if e.deadline + PATIENCE <= now} - self._hung:
                    self._hung.add(hung)
                    if len(self._hung) < MOST_HUNG:
                        self._start(self._work)
                    else:
                        late += self._waiting.drain()
            for entry, did in [*((e, "waited") for e in late), *((e, "ran") for e in running)]:
                waited = f"no verdict {now - entry.since:.3f} s after the request came, at its deadline"
                fail(entry, DeadlineExceeded(f"{waited}; it {did}"))
