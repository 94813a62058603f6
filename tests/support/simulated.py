"""Time that is counted, not waited for: an event loop, and a scheduler whose passes take what the test says."""

import asyncio
import zlib
from collections.abc import Callable
from concurrent.futures import InvalidStateError
from contextlib import ExitStack, suppress
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from guardpass import Bounds, Closed, DeadlineExceeded, GuardpassError, Overloaded
from guardpass.plan import Pass
from guardpass.scheduling.batch import Turn, fail
from guardpass.scheduling.dispatcher import Dispatcher
from guardpass.scheduling.pace import LatencyEstimator
from guardpass.scheduling.queue import Entry, Ticket

STOPS = 0.03  # seconds until a pass ends that was told to
Cost = Callable[[int, int], float]  # seconds of so many passes over so many tokens


class Loop(asyncio.SelectorEventLoop):
    """An event loop that jumps to what is due next, where nothing is ready."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        selector: Any = self._selector  # type: ignore[attr-defined]
        select = selector.select

        def jump(timeout: float | None = None) -> Any:
            ready = select(0)
            if not ready:
                assert timeout is not None, "everybody waits, and nothing will happen"
                self._now += timeout
            return ready

        selector.select = jump

    def time(self) -> float:
        return self._now


class Hashing:
    """In place of an engine: scores that are another for every pass, at once."""

    def __init__(self, columns: int) -> None:
        self._columns = columns

    def run(self, request: Pass) -> npt.NDArray[np.float32]:
        rng = np.random.default_rng(zlib.crc32(request.tokens.tobytes()))
        return rng.standard_normal((1, request.slots.size, self._columns)).astype(np.float32)


def learnt(cost: Cost) -> LatencyEstimator:
    """An estimator that knows the cost exactly."""
    pace = LatencyEstimator()
    for n in range(300):
        passes, tokens = 1 + n % 3, 20 + n % 3 * 700
        pace.update(passes, tokens, cost(passes, tokens))
    return pace


class Simulated:
    """The scheduler on a simulated loop: one engine, which ends a pass soon after it is told to.

    `wrong` collects what must not be: a refusal of what would have fitted, or something that hangs.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, bounds: Bounds, pace: LatencyEstimator, cost: Cost) -> None:
        self._loop, self._bounds, self._cost = loop, bounds, cost
        self._dispatcher = Dispatcher(bounds, deepcopy(pace))
        self._turn: Turn | None = None
        self._open: list[Entry] = []  # admitted and not answered, first come first
        self._alarm: asyncio.TimerHandle | None = None
        self.admitted = self.refused = 0
        self.waits: list[float] = []
        self.wrong: list[str] = []

    @property
    def load(self) -> tuple[int, int]:
        return self._dispatcher.load

    @property
    def hung(self) -> int:
        return len(self._dispatcher.hung)

    def submit(
        self,
        work: Callable[..., Any],
        *,
        tokens: int,
        fallback: Callable[[GuardpassError], Any],
        passes: int = 1,
        timeout: float | None = None,
        priority: int = 0,
        batch: None = None,  # noqa: ARG002
    ) -> Ticket:
        now = self._loop.time()
        entry = Entry(work, fallback, tokens, now + (timeout or float("inf")), now, priority, passes)
        try:
            self._dispatcher.admit(entry, now)
        except GuardpassError as error:
            self.refused += 1
            self._judge(entry, error, now)
            entry.ticket.set_result(fallback(error))
            return entry.ticket
        self.admitted += 1
        self._open.append(entry)
        entry.ticket.add_done_callback(lambda _: self._answered(entry))
        self._go()
        return entry.ticket

    def fork(self) -> None:
        """As in a forked child: what is not answered fails, and all begins anew."""
        self._dispatcher, self._turn = Dispatcher(self._bounds, self._dispatcher.latency), None
        for entry in list(self._open):
            fail(entry, Closed("the process was forked"))

    def _judge(self, entry: Entry, error: GuardpassError, now: float) -> None:
        """Whether a refusal is one, by what everything will really take."""
        waiting = [each for each in self._open if not self._turn or each not in self._turn.entries]
        full = len(waiting) >= self._bounds.requests or (
            waiting and sum(e.tokens for e in waiting) + entry.tokens > self._bounds.tokens
        )
        free = now
        if self._turn is not None and not self._turn.entries[0].ticket.stop.requested:
            running = self._turn.entries[0]
            free = min(self._turn.began + self._cost(running.passes, running.tokens), running.deadline)
        for each in sorted(waiting, key=lambda e: (-e.priority, e.order)):
            if each.priority >= entry.priority and each.deadline > free:
                free = min(free + self._cost(each.passes, each.tokens), each.deadline)
        ends = free + self._cost(entry.passes, entry.tokens)
        if not isinstance(error, Overloaded):
            self.wrong.append(f"{error!r}")
        elif not full and ends < entry.deadline - 0.01 * (ends - now):
            self.wrong.append(f"refused with {entry.deadline - now:.3f} s, and takes {ends - now:.3f} s: {error}")
        elif not full and error.retry_after > max(free - now, ends - entry.deadline, 0.1) * 1.01:
            self.wrong.append(f"{error}, when it is {free - now:.3f} s")

    def _answered(self, entry: Entry) -> None:
        self._dispatcher.waiting.discard(entry)
        self._open.remove(entry)
        self._loop.call_soon(self._go)

    def _go(self) -> None:
        """Begin what is next, and set the alarm."""
        now = self._loop.time()
        while self._turn is None and (turn := self._dispatcher.next(now)) is not None:
            (entry,) = turn.entries
            if entry.ticket.set_running_or_notify_cancel():
                self._turn = turn
                self.waits.append(now - entry.since)
                self._stops = ExitStack()  # for as long as the turn runs
                self._stops.enter_context(
                    entry.ticket.stop.ends(partial(self._loop.call_later, STOPS, self._end, turn))
                )
                self._loop.call_later(self._cost(entry.passes, entry.tokens), self._end, turn)
            else:
                self._dispatcher.ended(turn, now, finished=False)
        if self._alarm is not None:
            self._alarm.cancel()
        due = self._dispatcher.alarm()
        self._alarm = self._loop.call_at(due, self._late) if due < float("inf") else None

    def _late(self) -> None:
        late, hung = self._dispatcher.late(self._loop.time())
        if hung:
            self.wrong.append("a turn hangs")
        for entry, did in late:
            fail(entry, DeadlineExceeded(f"it {did}"))
        self._go()

    def _end(self, turn: Turn) -> None:
        if turn is not self._turn:
            return  # stopped before, or of the time before a fork
        self._turn = None
        (entry,) = turn.entries
        try:
            result = entry.work(entry.ticket.stop, self.waits[-1])
        except GuardpassError as error:
            self._dispatcher.ended(turn, self._loop.time(), finished=False)
            fail(entry, error)
        else:
            self._dispatcher.ended(turn, self._loop.time(), finished=True)
            with suppress(InvalidStateError):
                entry.ticket.set_result(result)
        self._go()
