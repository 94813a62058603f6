"""The waiting requests: their order, limits and deadlines. It has no threads and no clock of its own."""

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
    """Limits of a guard's queue. A request beyond them is refused at once, with Overloaded.

    Args:
        requests: Waiting requests.
        tokens: Estimated tokens of all waiting requests: one for three bytes of UTF-8, and those of the verdict tree.
            A request of any size may wait alone.

    Raises:
        InputError: A limit is not a whole number from 1.
    """

    requests: int = 64
    tokens: int = 1 << 16

    def __post_init__(self) -> None:
        for name in ("requests", "tokens"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise InputError(f"queue: {name} is {value!r}, expected a whole number from 1")


def check_timing(timeout: float | None, priority: int) -> None:
    """Raises InputError for an invalid timeout or priority."""
    seconds = float("nan")
    if isinstance(timeout, Real) and not isinstance(timeout, bool):
        with suppress(OverflowError):  # an integer beyond the range of floats
            seconds = float(timeout)
    if timeout is not None and not 0 < seconds < float("inf"):
        raise InputError(f"timeout is {timeout!r}, expected seconds above 0, or None for no deadline")
    if not isinstance(priority, Integral) or isinstance(priority, bool):
        raise InputError(f"priority is {priority!r}, expected a whole number, higher for sooner")


class Ticket(Future[Any]):
    """A future whose `cancel` also stops a running pass. The request then fails with Cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.stop = StopToken()

    def cancel(self) -> bool:
        """Returns True if the request had not begun. Else it stops as soon as the engine allows."""
        cancelled = super().cancel()
        if not cancelled and not self.done():
            self.stop.request(Cancelled("the request was cancelled while its pass ran"))
        return cancelled

    def after_fork(self) -> None:
        """In a forked process: renew the locks, which the parent's threads may have held."""
        self.stop = StopToken()
        unheard(self)


@dataclass(frozen=True)
class Batch:
    """How an engine runs a request together with others of the same key."""

    key: Hashable
    requests: int  # limit of one batch
    tokens: int  # limit of one batch
    parts: Callable[[StopToken, float], list[Any]]  # one start function for each text; takes the seconds waited
    run: Callable[[list[Any]], Sequence[Any]]  # a result or a GuardpassError for each part of all requests
    finish: Callable[[list[Any]], Any]  # the result of the request, from those of its parts


@dataclass(eq=False)
class Entry:
    """One request. deadline, since: seconds of the scheduler's clock."""

    work: Callable[[StopToken, float], Any]  # takes the seconds waited
    fallback: Callable[[GuardpassError], Any]  # returns a result in place of the failure, or raises
    tokens: int
    deadline: float
    since: float
    priority: int = 0
    passes: int = 1  # estimated, in sequence; `tokens` counts all of them
    batch: Batch | None = None  # replaces `work`
    ticket: Ticket = field(default_factory=Ticket)
    order: int = field(default_factory=lambda: next(_ORDER))


class Waiting:
    """The waiting entries: highest priority first; first come, first served within a priority."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._entries: dict[int, Entry] = {}
        self._heap: list[tuple[int, int]] = []  # may hold entries that left out of turn
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._entries)

    def admits(self, tokens: int) -> bool:
        """Whether the limits allow an entry with so many tokens."""
        fits = len(self._entries) < self._bounds.requests and self.tokens + tokens <= self._bounds.tokens
        return fits or not self._entries

    def add(self, entry: Entry) -> None:
        """Add an entry; check `admits` first."""
        self._entries[entry.order] = entry
        self.tokens += entry.tokens
        heapq.heappush(self._heap, (-entry.priority, entry.order))
        if len(self._heap) > 2 * len(self._entries) + 64:  # most of them left out of turn
            self._heap = sorted((-waiting.priority, order) for order, waiting in self._entries.items())

    def take(self) -> Entry | None:
        """Remove the next entry and return it."""
        while self._heap:
            _, order = heapq.heappop(self._heap)
            if order in self._entries:
                return self._leave(order)
        return None

    def companions(self, entry: Entry) -> list[Entry]:
        """Remove the entries that can run together with a taken entry, and return them in the order of arrival.

        They have its priority, so none of them overtakes an entry of a higher one. An overtaken entry waits at most as
        many turns as there were entries ahead of it.
        """
        return [self._leave(companion.order) for companion in _companions(entry, self._entries.values())]

    def turns(self, joins: Entry) -> Iterator[list[Entry]]:
        """The groups that would run together, in order, if one more entry waited. It removes nothing."""
        left = deque(sorted([*self._entries.values(), joins], key=lambda waiting: (-waiting.priority, waiting.order)))
        while left:
            entry = left.popleft()
            companions = _companions(entry, left)
            if companions:
                left = deque(other for other in left if other not in companions)
            yield [entry, *companions]

    def discard(self, entry: Entry) -> None:
        """Remove an entry out of turn, if it still waits."""
        if entry.order in self._entries:
            self._leave(entry.order)

    def expired(self, now: float) -> list[Entry]:
        """Remove the entries whose deadline has passed, and return them."""
        late = [entry.order for entry in self._entries.values() if entry.deadline <= now]
        return [self._leave(order) for order in late]

    def earliest(self) -> float:
        """The next deadline; infinite if there is none."""
        return min((entry.deadline for entry in self._entries.values()), default=float("inf"))

    def drain(self) -> list[Entry]:
        """Remove all entries and return them."""
        return [self._leave(order) for order in list(self._entries)]

    def _leave(self, order: int) -> Entry:
        entry = self._entries.pop(order)
        self.tokens -= entry.tokens
        if not self._entries:
            self._heap.clear()
        return entry


def _companions(entry: Entry, others: Iterable[Entry]) -> list[Entry]:
    """The entries among `others`, in their order, that can run together with an entry."""
    batch = entry.batch
    if batch is None:
        return []
    companions: list[Entry] = []
    tokens = entry.tokens
    for other in others:
        alike = other.batch is not None and other.batch.key == batch.key and other.priority == entry.priority
        if alike and len(companions) + 1 < batch.requests and tokens + other.tokens <= batch.tokens:
            companions.append(other)
            tokens += other.tokens
    return companions
