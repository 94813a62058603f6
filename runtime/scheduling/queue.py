"""Requests that wait for the engine: in which order, how many, and until when. No threads, and no clock of its own."""

import heapq
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from numbers import Integral, Real
from typing import Any

from ..errors import Cancelled, GuardpassError, InputError
from ..forks import unheard
from ..stop import StopToken

_ORDER = count()


@dataclass(frozen=True)
class Bounds:
    """How much may wait for one guard; what goes beyond is refused at once.

    tokens are estimates, a token for three bytes of UTF-8 and those of the tree. A request that is alone may have any
    number of them.
    """

    requests: int = 64
    tokens: int = 1 << 16

    def __post_init__(self) -> None:
        for name in ("requests", "tokens"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise InputError(f"queue: {name} is {value!r}, expected a whole number from 1")


def check_timing(timeout: float | None, priority: int) -> None:
    """Raises InputError for what is no time to give a request up after, or no priority."""
    seconds = float("nan")
    if isinstance(timeout, Real) and not isinstance(timeout, bool):
        with suppress(OverflowError):  # a whole number beyond all floats
            seconds = float(timeout)
    if timeout is not None and not 0 < seconds < float("inf"):
        raise InputError(f"timeout is {timeout!r}, expected seconds above 0, or None for no deadline")
    if not isinstance(priority, Integral) or isinstance(priority, bool):
        raise InputError(f"priority is {priority!r}, expected a whole number, higher for sooner")


class Ticket(Future[Any]):
    """A future whose `cancel` also asks a pass that runs already to stop; it then fails with Cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.stop = StopToken()

    def cancel(self) -> bool:
        """True where the request had not begun. False: it runs, and will end as soon as the engine lets it."""
        cancelled = super().cancel()
        if not cancelled and not self.done():
            self.stop.request(Cancelled("the request was cancelled while its pass ran"))
        return cancelled

    def after_fork(self) -> None:
        """In a forked process, where the parent's threads may have left the locks held."""
        self.stop = StopToken()
        unheard(self)


@dataclass(frozen=True)
class Batch:
    """How a request is run together with others of its key, on an engine that gains from it."""

    key: Hashable
    requests: int  # at most together
    tokens: int  # at most together
    parts: Callable[[StopToken, float], list[Any]]  # its texts, each ready to start; the seconds it waited
    run: Callable[[list[Any]], Sequence[Any]]  # the parts of several requests to a result or a GuardpassError each
    finish: Callable[[list[Any]], Any]  # from the results of its parts


@dataclass(eq=False)
class Entry:
    """One request. `deadline` and `since` are in seconds of the scheduler's clock."""

    work: Callable[[StopToken, float], Any]  # also gets the seconds it waited
    fallback: Callable[[GuardpassError], Any]  # the result in place of a failure, or it raises
    tokens: int
    deadline: float
    since: float
    priority: int = 0
    passes: int = 1  # one after another, as estimated; tokens are those of all of them
    batch: Batch | None = None  # in place of `work`
    ticket: Ticket = field(default_factory=Ticket)
    order: int = field(default_factory=lambda: next(_ORDER))


class Waiting:
    """The entries that wait, of higher priority first, and first come first of those alike."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._entries: dict[int, Entry] = {}
        self._heap: list[tuple[int, int]] = []  # may hold orders of entries that left otherwise
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._entries)

    def admits(self, tokens: int) -> bool:
        """Whether an entry of so many tokens may join."""
        fits = len(self._entries) < self._bounds.requests and self.tokens + tokens <= self._bounds.tokens
        return fits or not self._entries

    def add(self, entry: Entry) -> None:
        """Let an entry wait; `admits` says whether it may."""
        self._entries[entry.order] = entry
        self.tokens += entry.tokens
        heapq.heappush(self._heap, (-entry.priority, entry.order))
        if len(self._heap) > 2 * len(self._entries) + 64:  # mostly of entries that left out of turn
            self._heap = sorted((-each.priority, order) for order, each in self._entries.items())

    def take(self) -> Entry | None:
        """The next one, which leaves."""
        while self._heap:
            _, order = heapq.heappop(self._heap)
            if order in self._entries:
                return self._leave(order)
        return None

    def companions(self, entry: Entry) -> list[Entry]:
        """What can be run together with an entry that was taken, first come first; they leave.

        They are of its priority, so that none of a lower one goes before others. Who is overtaken by them still waits
        for no more turns than there were entries before it.
        """
        return [self._leave(each.order) for each in _companions(entry, self._entries.values())]

    def turns(self, joins: Entry) -> Iterator[list[Entry]]:
        """Who would run together, in the order of their turns, if one more entry waited; nobody leaves."""
        left = deque(sorted([*self._entries.values(), joins], key=lambda each: (-each.priority, each.order)))
        while left:
            entry = left.popleft()
            companions = _companions(entry, left)
            if companions:
                left = deque(each for each in left if each not in companions)
            yield [entry, *companions]

    def discard(self, entry: Entry) -> None:
        """Let an entry leave out of turn; nothing happens if it has left."""
        if entry.order in self._entries:
            self._leave(entry.order)

    def expired(self, now: float) -> list[Entry]:
        """Those whose deadline has passed, which leave."""
        late = [entry.order for entry in self._entries.values() if entry.deadline <= now]
        return [self._leave(order) for order in late]

    def earliest(self) -> float:
        """The next deadline; infinite where there is none."""
        return min((entry.deadline for entry in self._entries.values()), default=float("inf"))

    def drain(self) -> list[Entry]:
        """All of them, which leave."""
        return [self._leave(order) for order in list(self._entries)]

    def _leave(self, order: int) -> Entry:
        entry = self._entries.pop(order)
        self.tokens -= entry.tokens
        if not self._entries:
            self._heap.clear()
        return entry


def _companions(entry: Entry, others: Iterable[Entry]) -> list[Entry]:
    """Those of `others`, first come first, that can be run together with an entry."""
    batch, found, tokens = entry.batch, list[Entry](), entry.tokens
    if batch is None:
        return found
    for each in others:
        alike = each.batch is not None and each.batch.key == batch.key and each.priority == entry.priority
        if alike and len(found) + 1 < batch.requests and tokens + each.tokens <= batch.tokens:
            found.append(each)
            tokens += each.tokens
    return found
