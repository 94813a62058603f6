"""Who is let in, who runs next and who is late: the scheduler's part without threads and without a clock of its own."""

from collections.abc import Iterator

from ..errors import Closed, EngineError, Overloaded
from .batch import Turn
from .pace import LatencyEstimator
from .queue import Bounds, Entry, Waiting

PATIENCE = 1.0
MOST_HUNG = 4  # threads that are given up; then everything fails until one comes back
_SOONEST = 0.1  # seconds; what a refused caller is told at least


class Dispatcher:
    """The requests of one guard. `now` is in seconds of the caller's clock, which is the same for all calls."""

    def __init__(self, bounds: Bounds, latency: LatencyEstimator | None = None) -> None:
        self.waiting, self.latency = Waiting(bounds), latency or LatencyEstimator()
        self.running: set[Turn] = set()
        self.hung: set[Turn] = set()
        self.closed = False

    @property
    def load(self) -> tuple[int, int]:
        """Requests and tokens that somebody waits for, not yet running and running."""
        running = [entry.tokens for turn in self.running for entry in turn.awaited]
        return len(self.waiting) + len(running), self.waiting.tokens + sum(running)

    @property
    def idle(self) -> bool:
        """Nothing waits, and nothing runs that is not taken for hung."""
        return not self.waiting and self.running <= self.hung

    def admit(self, entry: Entry, now: float) -> None:
        """Let an entry wait for its turn, or raise what forbids it.

        Something is always let in where nobody waits for anything else, or no pace is ever learnt.
        """
        if self.closed:
            raise Closed("the guard is closed; load it again")
        if len(self.hung) >= MOST_HUNG:
            raise EngineError(f"{len(self.hung)} passes hang; the guard serves nothing until one of them ends")
        if not self.waiting.admits(entry.tokens):
            wait = max(self._foretold(entry, now)[0], _SOONEST)
            raise Overloaded(
                f"{len(self.waiting)} requests of about {self.waiting.tokens} tokens wait, as many as may; "
                f"try again in {wait:.3f} s",
                wait,
            )
        if entry.deadline < float("inf") and self.load[0]:
            self._refuse_late(entry, now)
        self.waiting.add(entry)

    def next(self, now: float) -> Turn | None:
        """The turn that begins now; None where nothing waits."""
        entry = self.waiting.take()
        if entry is None:
            return None
        turn = Turn([entry, *self.waiting.companions(entry)], now)
        self.running.add(turn)
        return turn

    def ended(self, turn: Turn, now: float, *, finished: bool) -> bool:
        """Whether the turn's thread goes on, or another has its place. finished: all its requests ran to the end."""
        self.running.discard(turn)
        self.latency.update(turn.passes, turn.tokens, now - turn.began, finished=finished)
        if turn in self.hung:
            self.hung.discard(turn)
            return False
        return True

    def alarm(self) -> float:
        """When `late` has something next; infinite where it will not."""
        # Those that run have been failed already when their patience ends.
        ends = [e.deadline + PATIENCE * e.ticket.done() for turn, e in self._runs() if turn not in self.hung]
        return min([self.waiting.earliest(), *ends])

    def late(self, now: float) -> tuple[list[tuple[Entry, str]], int]:
        """Requests to fail, with what each one did, waited or ran; and in how many threads others are to go on.

        Turns that did not end `PATIENCE` after a deadline are taken for hung from now on.
        """
        late = [(entry, "waited") for entry in self.waiting.expired(now)]
        late += [(e, "ran") for _, e in self._runs() if e.deadline <= now and not e.ticket.done()]
        threads = 0
        for hung in {turn for turn, e in self._runs() if e.deadline + PATIENCE <= now} - self.hung:
            self.hung.add(hung)
            if len(self.hung) < MOST_HUNG:
                threads += 1
            else:
                late += [(entry, "waited") for entry in self.waiting.drain()]
        return late, threads

    def drain(self) -> list[Entry]:
        """Whatever is not answered and does not hang; those that wait leave."""
        return [*self.waiting.drain(), *(e for turn in self.running - self.hung for e in turn.entries)]

    def _runs(self) -> Iterator[tuple[Turn, Entry]]:
        return ((turn, entry) for turn in self.running for entry in turn.entries)

    def _refuse_late(self, entry: Entry, now: float) -> None:
        """Raises Overloaded where an entry could not be done by its deadline."""
        alone, left = self.latency.estimate(entry.passes, entry.tokens), entry.deadline - now
        ahead, takes = self._foretold(entry, now)
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

    def _foretold(self, entry: Entry, now: float) -> tuple[float, float]:
        """If an entry joined those that wait: seconds until its turn would begin, and those that the turn would take.

        Only what somebody waits for counts, and only until its deadline.
        """
        free = now
        for turn in self.running:
            if awaited := turn.awaited:  # else it was told to stop
                ends = max(now, turn.began + self._seconds(awaited))
                free = max(free, min(ends, max(each.deadline for each in awaited)))
        for group in self.waiting.turns(entry):
            awaited = [each for each in group if each.deadline > free]  # the others fail before they begin
            if entry in group:
                return free - now, self._seconds(awaited or [entry])
            if awaited:
                free = min(free + self._seconds(awaited), max(each.deadline for each in awaited))
        raise AssertionError  # an entry has its turn

    def _seconds(self, entries: list[Entry]) -> float:
        """What one entry may take, or several side by side."""
        return self.latency.estimate(max(each.passes for each in entries), sum(each.tokens for each in entries))
