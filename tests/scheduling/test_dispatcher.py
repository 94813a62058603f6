"""Admission on a simulated clock: what counts as work ahead, what a refusal says, and who is never refused."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from guardpass import Bounds, Cancelled, DeadlineExceeded, GuardpassError, Overloaded
from guardpass.scheduling.dispatcher import Dispatcher
from guardpass.scheduling.pace import LatencyEstimator
from guardpass.scheduling.queue import Batch, Entry, Ticket

from ..support.simulated import Loop, Simulated, learnt


def _cost(passes: int, tokens: int) -> float:
    return 0.01 * passes + 0.001 * tokens


class Desk:
    """A scheduler on a simulated loop, and requests that do nothing but take their time."""

    def __init__(self, cost: Callable[[int, int], float] = _cost, pace: LatencyEstimator | None = None) -> None:
        self.loop = Loop()
        self.scheduler = Simulated(self.loop, Bounds(1000, 1 << 20), pace or learnt(_cost), cost)

    def submit(self, tokens: int, timeout: float | None = None, *, passes: int = 1, priority: int = 0) -> Ticket:
        def fallback(error: GuardpassError) -> Any:
            raise error

        return self.scheduler.submit(
            lambda stop, _: stop.check(),
            tokens=tokens,
            passes=passes,
            timeout=timeout,
            priority=priority,
            fallback=fallback,
        )

    def run(self, story: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(story)
        self.loop.close()
        assert not self.scheduler.wrong


@pytest.mark.parametrize("gone", ["cancelled", "late"])
def test_what_nobody_waits_for_is_not_ahead(gone: str) -> None:
    """A long text whose client left, or whose deadline passed, while it ran or waited."""
    desk = Desk()

    async def story() -> None:
        tickets = [desk.submit(20000, None if gone == "cancelled" else 0.5)]
        tickets += [desk.submit(20000) for _ in range(3)]
        await asyncio.sleep(0.1)
        with pytest.raises(Overloaded, match="ahead"):
            desk.submit(20, 1.0)
        for ticket in tickets if gone == "cancelled" else tickets[1:]:
            ticket.cancel()
        if gone == "late":
            desk.submit(20, 1.0)  # the one that runs is stopped in 0.4 s
            await asyncio.sleep(0.4)
        assert desk.scheduler.load[0] == (gone == "late")
        began = desk.loop.time()
        verdict = desk.submit(20, 0.1)
        await asyncio.wrap_future(verdict)
        assert desk.loop.time() - began < 0.1
        with pytest.raises(Cancelled if gone == "cancelled" else DeadlineExceeded):
            tickets[0].result(0)

    desk.run(story())


def test_of_a_batch_only_those_that_are_awaited_count() -> None:
    batch = Batch("key", 4, 10000, lambda _: [], lambda found: found, lambda _: [])
    dispatcher = Dispatcher(Bounds(), learnt(_cost))
    together = [Entry(lambda *_: None, lambda _: None, 1000, float("inf"), 0.0, batch=batch) for _ in range(4)]
    for entry in together:
        dispatcher.admit(entry, 0.0)
    turn = dispatcher.next(0.0)
    assert turn is not None
    assert dispatcher.load == (4, 4000)
    for entry in together[1:]:
        entry.ticket.stop.request(Cancelled("gone"))
    assert dispatcher.load == (1, 1000)
    with pytest.raises(Overloaded, match=r"about 1\.01"):
        dispatcher.admit(Entry(lambda *_: None, lambda _: None, 20, 1.0, 0.0), 0.0)
    together[0].ticket.set_result(None)
    assert dispatcher.load == (0, 0)
    dispatcher.admit(Entry(lambda *_: None, lambda _: None, 20, 1.0, 0.0), 0.0)


def test_who_rides_along_is_not_behind_those_it_runs_with() -> None:
    """On an engine where a batch takes hardly longer than one."""
    batch = Batch("key", 4, 10000, lambda _: [], lambda found: found, lambda _: [])
    dispatcher = Dispatcher(Bounds(), learnt(lambda passes, tokens: passes + 1e-5 * tokens))
    for _ in range(3):
        dispatcher.admit(Entry(lambda *_: None, lambda _: None, 30, float("inf"), 0.0, batch=batch), 0.0)
    with pytest.raises(Overloaded):
        dispatcher.admit(Entry(lambda *_: None, lambda _: None, 30, 1.5, 0.0), 0.0)
    dispatcher.admit(Entry(lambda *_: None, lambda _: None, 30, 1.5, 0.0, batch=batch), 0.0)
    with pytest.raises(Overloaded):  # the batch is full
        dispatcher.admit(Entry(lambda *_: None, lambda _: None, 30, 1.5, 0.0, batch=batch), 0.0)


def test_a_refusal_says_what_is_too_long() -> None:
    desk = Desk()

    async def story() -> None:
        desk.submit(5000)
        with pytest.raises(Overloaded, match=r"5\.01. s of work is ahead of the request, which takes 0\.03") as ahead:
            desk.submit(20, 2.0)
        assert ahead.value.retry_after == pytest.approx(3.04, rel=0.01)
        with pytest.raises(Overloaded, match=r"alone takes about 12\.0.. s, and its deadline is in 2\.000 s") as alone:
            desk.submit(12000, 2.0)
        assert alone.value.retry_after == pytest.approx(5.01, rel=0.01)
        await asyncio.sleep(alone.value.retry_after + 0.01)
        late = desk.submit(12000, 2.0)  # as it was told: tried, since nothing is ahead
        with pytest.raises(DeadlineExceeded):
            await asyncio.wrap_future(late)

    desk.run(story())


def test_lower_priorities_and_what_expires_before_its_turn_are_not_ahead() -> None:
    desk = Desk()

    async def story() -> None:
        desk.submit(1000)
        for _ in range(5):
            desk.submit(5000)
        with pytest.raises(Overloaded):
            desk.submit(20, 2.0)
        urgent = desk.submit(20, 2.0, priority=1)
        await asyncio.wrap_future(urgent)
        assert desk.loop.time() < 1.1

    desk.run(story())


@pytest.mark.parametrize("cost", [(0.005, 0.00005), (0.0005, 0.00004), (0.02, 0.00002), (0.0, 0.0001)])
@pytest.mark.parametrize("seed", range(3))
def test_a_mixed_load_at_60_percent_of_the_capacity_refuses_nobody(seed: int, cost: tuple[float, float]) -> None:
    """95 % short texts and 5 % of 20 kB, from a cold start, as of an engine whose speed varies by a fifth."""
    rng = random.Random(seed)
    short, long = (1, 30), (4, 6700)  # passes, tokens

    def seconds(passes: int, tokens: int) -> float:
        return (cost[0] * passes + cost[1] * tokens) * rng.lognormvariate(0.0, 0.2)

    rate = 0.6 / (0.95 * (cost[0] + cost[1] * 30) + 0.05 * (cost[0] * 4 + cost[1] * 6700))
    desk = Desk(seconds, LatencyEstimator())

    async def story() -> None:
        tickets = []
        for _ in range(3000):
            await asyncio.sleep(rng.expovariate(rate))
            passes, tokens = long if rng.random() < 0.05 else short
            tickets.append(desk.submit(tokens, 10.0, passes=passes))
        await asyncio.sleep(20.0)
        for ticket in tickets:
            ticket.result(0)

    desk.run(story())
    assert (desk.scheduler.admitted, desk.scheduler.refused) == (3000, 0)
