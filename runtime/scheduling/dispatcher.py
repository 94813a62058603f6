"""Admission, order and deadlines: the scheduler's decisions, without threads and without a clock of its own."""

from collections.abc import Iterator

from ..errors import Closed, EngineError, Overloaded
from .batch import Turn
from .pace import LatencyEstimator
from .queue import Bounds, Entry, Waiting

PATIENCE = 1.0  # seconds from a deadline until its pass counts as hung
MOST_HUNG = 4  # hung threads; with as many, every request fails until one of them returns
_SOONEST = 0.1  # seconds; the least `retry_after` of a refusal


class Dispatcher:
    """The requests of one guard. now: seconds of the caller's clock, one clock for all calls."""

    def __init__(self, bounds: Bounds, latency: LatencyEstimator | None = None) -> None:
        self.waiting = Waiting(bounds)
        self.latency = latency or LatencyEstimator()
        self.running: set[Turn] = set()
        self.hung: set[Turn] = set()
        self.closed = False

    @property
    def load(self) -> tuple[int, int]:
        """Awaited requests and their tokens, waiting and running."""
        running = [entry.tokens for turn in self.running for entry in turn.awaited]
        return len(self.waiting) + len(running), self.waiting.tokens + sum(running)

    @property
    def idle(self) -> bool:
        """Whether nothing waits, and every running turn counts as hung."""
        return not self.waiting and self.running <= self.hung

    def admit(self, entry: Entry, now: float) -> None:
        """Queue an entry. Raises Closed, EngineError or Overloaded.

        An entry with no awaited request ahead is always admitted. Else no turn would correct a wrong estimate.
        """
        if self.closed:
            raise Closed("the guard is closed; load it again")
        if len(self.hung) >= MOST_HUNG:
            raise EngineError(f"{len(self.hung)} passes hang; the guard serves nothing until one of them ends")
        if not self.waiting.admits(entry.tokens):
            wait = max(self._forecast(entry, now)[0], _SOONEST)
            raise Overloaded(
                f"{len(self.waiting)} requests of about {self.waiting.tokens} tokens wait, as many as may; "
                f"try again in {wait:.3f} s",
                wait,
            )
        if entry.deadline < float("inf") and self.load[0]:
            self._refuse_late(entry, now)
        self.waiting.add(entry)

    def next(self, now: float) -> Turn | None:
        """Begin the next turn; None if nothing waits."""
        entry = self.waiting.take()
        if entry is None:
            return None
        turn = Turn([entry, *self.waiting.companions(entry)], now)
        self.running.add(turn)
        return turn

    def ended(self, turn: Turn, now: float, *, finished: bool) -> bool:
        """End a turn; returns False if a replacement thread has taken over.

        finished: every request of the turn ran to its end.
        """
        self.running.discard(turn)
        self.latency.update(turn.passes, turn.tokens, now - turn.began, finished=finished)
        if turn in self.hung:
            self.hung.discard(turn)
            return False
        return True

    def alarm(self) -> float:
        """The next time at which `late` has work to do; infinite if there is none."""
        times = [self.waiting.earliest()]
        for turn, entry in self._runs():
            if turn in self.hung:
                continue
            if entry.ticket.done():  # it has failed at its deadline; next its turn may count as hung
                times.append(entry.deadline + PATIENCE)
            else:
                times.append(entry.deadline)
        return min(times)

    def late(self, now: float) -> tuple[list[tuple[Entry, str]], int]:
        """The requests to fail, each with its state ("waited" or "ran"), and how many replacement threads to start.

        A turn that did not end `PATIENCE` seconds after a deadline counts as hung from now on.
        """
        late = [(entry, "waited") for entry in self.waiting.expired(now)]
        late += [(entry, "ran") for _, entry in self._runs() if entry.deadline <= now and not entry.ticket.done()]
        threads = 0
        for hung in {turn for turn, entry in self._runs() if entry.deadline + PATIENCE <= now} - self.hung:
            self.hung.add(hung)
            if len(self.hung) < MOST_HUNG:
                threads += 1
            else:
                late += [(entry, "waited") for entry in self.waiting.drain()]
        return late, threads

    def drain(self) -> list[Entry]:
        """Remove the waiting entries; returns them and those of running turns, without hung ones."""
        running = (entry for turn in self.running - self.hung for entry in turn.entries)
        return [*self.waiting.drain(), *running]

    def _runs(self) -> Iterator[tuple[Turn, Entry]]:
        return ((turn, entry) for turn in self.running for entry in turn.entries)

    def _refuse_late(self, entry: Entry, now: float) -> None:
        """Raises Overloaded if an entry cannot meet its deadline."""
        alone = self.latency.estimate(entry.passes, entry.tokens)
        left = entry.deadline - now
        ahead, takes = self._forecast(entry, now)
        if alone > left:
            wait = max(ahead, _SOONEST)
            raise Overloaded(
                f"the request alone takes about {alone:.3f} s, and its deadline is in {left:.3f} s; send less text or "
                f"allow more time (it is tried all the same when nothing is ahead of it, in about {wait:.3f} s)",
                wait,
            )
        if ahead + takes > left:
            wait = max(ahead + takes - left, _SOONEST)
            raise Overloaded(
                f"about {ahead:.3f} s of work is ahead of the request, which takes {takes:.3f} s: too much for its "
                f"deadline in {left:.3f} s; try again in {wait:.3f} s",
                wait,
            )

    def _forecast(self, entry: Entry, now: float) -> tuple[float, float]:
        """The seconds until the turn of a new entry would begin, and the seconds that the turn would take.

        Only awaited requests count, and each only until its deadline.
        """
        free = now
        for turn in self.running:
            if awaited := turn.awaited:  # else the turn is stopping
                ends = max(now, turn.began + self._seconds(awaited))
                free = max(free, min(ends, max(other.deadline for other in awaited)))
        for group in self.waiting.turns(entry):
            awaited = [other for other in group if other.deadline > free]  # the rest fail before their turn
            if entry in group:
                return free - now, self._seconds(awaited or [entry])
            if awaited:
                free = min(free + self._seconds(awaited), max(other.deadline for other in awaited))
        raise AssertionError  # `turns` yields the entry

    def _seconds(self, entries: list[Entry]) -> float:
        """The estimated seconds of one entry, or of a batch."""
        return self.latency.estimate(max(entry.passes for entry in entries), sum(entry.tokens for entry in entries))
