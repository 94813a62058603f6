"""Requests in turn: order, admission, deadlines, cancelling, faults of the engine, closing."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from guardpass import (
    BadScores,
    BadText,
    Bounds,
    Cancelled,
    Closed,
    DeadlineExceeded,
    EngineError,
    Failure,
    Guard,
    InputError,
    Overloaded,
    Panel,
    TextTooLong,
)
from guardpass.engines.base import Engine
from guardpass.plan import Pass
from guardpass.scheduling.queue import Entry, Waiting
from guardpass.stop import StopToken

from ..support.engines import engine_of, put_engine

LONG = 30.0  # seconds nothing here should take


class Slow:
    """The guard's engine behind a door; what a pass does meanwhile the test says."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.door, self.entered = threading.Event(), threading.Semaphore(0)
        self.ran: list[int] = []  # tokens of each pass
        self.fault: Callable[[], npt.NDArray[np.float32] | None] = lambda: None

    def run(self, request: Pass) -> npt.NDArray[np.float32]:
        self.entered.release()
        self.ran.append(request.tokens.size)
        assert self.door.wait(LONG)
        found = self.fault()
        return self.engine.run(request) if found is None else found


@pytest.fixture
def slow(two_sided: Path) -> Iterator[tuple[Guard, Slow]]:
    """A guard of room for three, and its engine, which waits for its door."""
    with Guard.load(two_sided, threads=1, queue=Bounds(requests=3, tokens=1000)) as guard:
        engine = put_engine(guard, Slow(engine_of(guard)))
        yield guard, engine
        engine.fault = lambda: None
        engine.door.set()


def test_submitted_verdicts_are_those_of_check(guard: Guard) -> None:
    items = [("안녕하세요", None), ("how do I make a cake", "like this"), ("", None), ("x" * 300, "</human>")]
    expected = [guard.check(*item) for item in items]
    for found in ([guard.submit(*item).result(LONG) for item in items], guard.submit_many(items).result(LONG)):
        for one, other in zip(found, expected, strict=True):
            assert {**one.to_json(), "ms": 0} == {**other.to_json(), "ms": 0}
    assert asyncio.run(guard.acheck(*items[1])).score == expected[1].score


def test_first_come_first_and_priorities_before(slow: tuple[Guard, Slow]) -> None:
    guard, engine = slow
    done: list[str] = []
    first = guard.submit("first")
    assert engine.entered.acquire(timeout=LONG)  # what comes now waits
    for name, priority in (("second", 0), ("third", 0), ("urgent", 1)):
        guard.submit(name, priority=priority).add_done_callback(lambda _, name=name: done.append(name))
    engine.door.set()
    first.result(LONG)
    assert guard.close(LONG)
    assert done == ["urgent", "second", "third"]


def test_what_does_not_fit_is_refused_at_once(slow: tuple[Guard, Slow]) -> None:
    guard, engine = slow
    guard.submit("runs")
    assert engine.entered.acquire(timeout=LONG)
    for _ in range(3):
        guard.submit("waits")
    with pytest.raises(Overloaded) as refused:
        guard.submit("one too many")
    assert refused.value.retry_after > 0
    verdict = guard.submit("one too many", on_error="block").result(0)
    assert not verdict.safe
    assert verdict.failure == Failure("overloaded", verdict.failure.message, "block")


def test_tokens_are_bounded_too_but_not_for_what_is_alone(slow: tuple[Guard, Slow]) -> None:
    guard, engine = slow
    guard.submit("runs")
    assert engine.entered.acquire(timeout=LONG)
    guard.submit("word " * 1000)  # more than there may be, and nothing else waits
    with pytest.raises(Overloaded):
        guard.submit("no room")


def test_expired_work_never_reaches_the_engine(slow: tuple[Guard, Slow]) -> None:
    guard, engine = slow
    first = guard.submit("runs")
    assert engine.entered.acquire(timeout=LONG)
    late = guard.submit("waits too long", timeout=0.05)
    with pytest.raises(DeadlineExceeded, match="waited"):
        late.result(LONG)  # while the first still runs
    engine.door.set()
    first.result(LONG)
    guard.submit("another").result(LONG)
    assert len(engine.ran) == 2


def test_a_deadline_that_cannot_be_met_is_refused(slow: tuple[Guard, Slow]) -> None:
    guard, engine = slow
    engine.door.set()
    engine.fault = lambda: time.sleep(0.2)
    guard.submit("learn the pace").result(LONG)
    guard.submit("ahead")
    with pytest.raises(Overloaded, match="ahead"):
        guard.submit("no chance", timeout=0.05)
    guard.submit("in time", timeout=LONG).result(LONG)


def test_cancelling_before_and_while_it_runs(slow: tuple[Guard, Slow]) -> None:
    guard, engine = slow
    # Of two windows, the second is never run.
    running = guard.submit("word " * 400)
    guard.judge.limits = type(guard.judge.limits)(300, 16, "windows")
    assert engine.entered.acquire(timeout=LONG)
    waiting = [guard.submit("waits") for _ in range(3)]
    assert waiting[1].cancel()
    guard.submit("takes its place")
    assert not running.cancel()
    engine.door.set()
    with pytest.raises(Cancelled):
        running.result(LONG)
    with pytest.raises(CancelledError):
        waiting[1].result(LONG)
    waiting[2].result(LONG)
    assert guard.close(LONG)
    assert len(engine.ran) == 4


def test_cancelling_a_task_cancels_its_request(slow: tuple[Guard, Slow]) -> None:
    guard, engine = slow

    async def leave() -> None:
        first = asyncio.create_task(guard.acheck("runs"))
        second = asyncio.create_task(guard.acheck("waits"))
        assert await asyncio.to_thread(engine.entered.acquire, timeout=LONG)
        for task in (second, first):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    asyncio.run(leave())
    engine.door.set()
    assert guard.close(LONG)
    assert len(engine.ran) == 1


def test_however_the_wait_ends_the_request_is_given_up(slow: tuple[Guard, Slow]) -> None:
    """A task that is cancelled, a deadline of the caller's, a coroutine that is thrown away, a loop that is closed."""
    guard, engine = slow
    for ask in (guard.acheck, Panel([guard]).acheck):
        for end in ("cancel", "wait_for", "close"):
            blocks = guard.submit("runs")
            assert engine.entered.acquire(timeout=LONG)
            loop = asyncio.new_event_loop()
            coroutine = ask("waits")
            if end == "close":

                async def begin(coroutine: Any = coroutine) -> None:
                    coroutine.send(None)

                loop.run_until_complete(begin())
                assert guard.scheduler.load[0] == 2
                coroutine.close()
            else:

                async def leave(coroutine: Any = coroutine, end: str = end) -> None:
                    if end == "wait_for":
                        with pytest.raises(TimeoutError):
                            await asyncio.wait_for(coroutine, 0.05)
                    else:
                        task = asyncio.ensure_future(coroutine)
                        await asyncio.sleep(0.05)
                        assert guard.scheduler.load[0] == 2
                        task.cancel()
                        with suppress(asyncio.CancelledError):
                            await task

                loop.run_until_complete(leave())
            assert guard.scheduler.load[0] == 1, (ask, end)
            loop.close()
            engine.door.set()
            blocks.result(LONG)
            engine.door.clear()
    engine.door.set()
    assert guard.close(LONG)
    assert len(engine.ran) == 6  # of those that were given up none ran


@pytest.mark.parametrize("timeout", ["2", "soon", float("nan"), float("inf"), 10**400, -1, 0, True, (), 2j, b"2"])
@pytest.mark.parametrize("on_error", ["raise", "block", "allow"])
def test_a_timeout_that_is_none_says_what_was_expected(guard: Guard, timeout: Any, on_error: Any) -> None:
    panel = Panel([guard])
    for text in ("a text", "\ud800"):  # a wrong option is one, whatever the text
        for ask in (
            guard.submit,
            panel.submit,
            panel.check,
            lambda *a, **k: asyncio.run(guard.acheck(*a, **k)),
            lambda text, **k: guard.submit_many([text], **k),
            lambda *a, **k: asyncio.run(panel.acheck(*a, **k)),
        ):
            with pytest.raises(InputError, match=r"timeout is .*expected seconds above 0"):
                ask(text, timeout=timeout, on_error=on_error)


@pytest.mark.parametrize("priority", ["1", None, 1.0, float("nan"), True, ()])
def test_a_priority_that_is_none_says_what_was_expected(guard: Guard, priority: Any) -> None:
    panel = Panel([guard])
    for ask in (
        guard.submit,
        panel.submit,
        panel.check,
        lambda *a, **k: asyncio.run(guard.acheck(*a, **k)),
        lambda text, **k: guard.submit_many([text], **k),
    ):
        with pytest.raises(InputError, match=r"priority is .*expected a whole number"):
            ask("a text", priority=priority)


def test_numbers_of_numpy_and_far_deadlines_are_taken(two_sided: Path) -> None:
    """The watch had no words for a deadline some centuries away, and ended; no other deadline was kept then."""
    with Guard.load(two_sided, threads=1, queue=Bounds(requests=3, tokens=1000)) as guard:
        engine = put_engine(guard, Slow(engine_of(guard)))
        far = guard.submit("far", timeout=1e300)
        near = guard.submit("near", timeout=np.float32(0.05), priority=np.int64(1))
        with pytest.raises(DeadlineExceeded):
            near.result(LONG)
        engine.door.set()
        assert far.result(LONG).failure is None


def test_onnx_runtime_ends_a_pass_that_runs(guard: Guard) -> None:
    """A stop that comes before the first operator, and one from another thread, of long passes."""
    text = "단어 " * 900
    for delay in (0.0, 0.002, 0.01):
        ticket = guard.submit(text)
        time.sleep(delay)
        ticket.cancel()
        with pytest.raises((Cancelled, CancelledError)):
            ticket.result(LONG)
    assert guard.submit("after it").result(LONG).score == guard.check("after it").score


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (lambda: np.full((1, 1, 8), np.nan, np.float32), BadScores),
        (lambda: np.full((1, 1, 8), np.inf, np.float32), BadScores),
        (lambda: (_ for _ in ()).throw(EngineError("broken")), EngineError),
        (lambda: (_ for _ in ()).throw(MemoryError("the text itself")), EngineError),
        (lambda: np.zeros(0, np.float32), EngineError),
    ],
)
def test_a_fault_of_the_engine_fails_its_request_alone(
    slow: tuple[Guard, Slow], fault: Callable[[], Any], error: type[EngineError]
) -> None:
    guard, engine = slow
    engine.door.set()
    engine.fault = fault
    with pytest.raises(error) as raised:
        guard.submit("a text").result(LONG)
    assert "the text itself" not in str(raised.value)
    blocked = guard.submit("a text", on_error="block").result(LONG)
    assert (blocked.safe, blocked.failure.kind, blocked.failure.on_error) == (False, error.kind, "block")
    if error is BadScores:  # a text may bring it about, and must not be let in for it
        with pytest.raises(BadScores):
            guard.submit("a text", on_error="allow").result(LONG)
    else:
        allowed = guard.submit("a text", on_error="allow").result(LONG)
        assert (allowed.safe, allowed.failure.kind, allowed.failure.on_error) == (True, error.kind, "allow")
    engine.fault = lambda: None
    assert guard.submit("a text").result(LONG).failure is None


def test_a_pass_that_hangs_fails_at_its_deadline_and_the_next_ones_run(slow: tuple[Guard, Slow]) -> None:
    guard, engine = slow
    hangs = guard.submit("hangs", timeout=0.05)
    with pytest.raises(DeadlineExceeded, match="ran"):
        hangs.result(LONG)
    door, engine.door = engine.door, threading.Event()
    engine.door.set()  # the next pass finds it open; the first stays behind the old one
    assert guard.submit("next", timeout=LONG).result(LONG).failure is None
    assert guard.scheduler.hung == 1
    door.set()
    for _ in range(300):
        if not guard.scheduler.hung:
            break
        time.sleep(0.1)
    assert guard.scheduler.hung == 0
    assert guard.submit("and on").result(LONG).failure is None


def test_on_error_never_lets_in_what_the_text_did(guard: Guard, two_sided: Path) -> None:
    refusing = Guard.load(two_sided, long_text="refuse", max_tokens=200)
    for one, text, error in ((guard, "\ud800", BadText), (refusing, "x " * 5000, TextTooLong)):
        for judge in (one.check, lambda *a, one=one, **k: one.submit(*a, **k).result(LONG)):
            for on_error in ("raise", "allow"):
                with pytest.raises(error):
                    judge(text, on_error=on_error)
            assert not judge(text, on_error="block").safe
    for wrong in ({"threshold": 2.0}, {"on_error": "ignore"}, {"policies": ["none such"]}):
        with pytest.raises(InputError):
            guard.check("text", **{"on_error": "block", **wrong})
        with pytest.raises(InputError):
            guard.submit("text", **{"on_error": "block", **wrong}).result(LONG)


def test_close_drains_and_then_refuses(two_sided: Path) -> None:
    with Guard.load(two_sided) as guard:
        futures = [guard.submit(f"text {n}") for n in range(20)]
    assert all(future.done() and future.result().label for future in futures)
    with pytest.raises(Closed):
        guard.submit("late")
    with pytest.raises(Closed):
        guard.check("late")


def test_close_fails_what_is_not_done_in_time(slow: tuple[Guard, Slow]) -> None:
    guard, engine = slow
    futures = [guard.submit("runs"), guard.submit("waits")]
    assert engine.entered.acquire(timeout=LONG)
    assert not guard.close(0.05)
    for future in futures:
        with pytest.raises(Closed):
            future.result(LONG)


def test_a_guard_that_is_dropped_leaves_no_thread(two_sided: Path) -> None:
    guard = Guard.load(two_sided)
    guard.submit("text").result(LONG)
    gone, before = weakref.ref(guard), threading.active_count()
    del guard
    for _ in range(300):  # the thread that ran the request holds it for a moment after its answer
        gc.collect()
        if gone() is None and threading.active_count() <= before - 2:
            break
        time.sleep(0.1)
    assert gone() is None
    assert threading.active_count() <= before - 2


class Order(RuleBasedStateMachine):
    """Waiting beside a plain list that is sorted anew at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.bounds = Bounds(requests=5, tokens=20)
        self.waiting, self.model, self.now = Waiting(self.bounds), list[Entry](), 0.0

    @rule(tokens=st.integers(1, 30), ttl=st.integers(0, 6), priority=st.integers(-1, 1))
    def add(self, tokens: int, ttl: int, priority: int) -> None:
        fits = len(self.model) < 5 and sum(e.tokens for e in self.model) + tokens <= 20
        assert self.waiting.admits(tokens) == (fits or not self.model)
        if self.waiting.admits(tokens):
            entry = Entry(lambda *_: None, lambda _: None, tokens, self.now + ttl, self.now, priority)
            self.waiting.add(entry)
            self.model.append(entry)

    @rule()
    def take(self) -> None:
        expected = min(self.model, key=lambda e: (-e.priority, e.order), default=None)
        assert self.waiting.take() is expected
        self.model = [entry for entry in self.model if entry is not expected]

    @rule(which=st.integers(0, 9))
    def discard(self, which: int) -> None:
        if which < len(self.model):
            self.waiting.discard(self.model[which])
            self.waiting.discard(self.model.pop(which))

    @rule(step=st.integers(0, 3))
    def expire(self, step: int) -> None:
        self.now += step
        assert self.waiting.expired(self.now) == [e for e in self.model if e.deadline <= self.now]
        self.model = [e for e in self.model if e.deadline > self.now]

    @invariant()
    def sizes(self) -> None:
        assert (len(self.waiting), self.waiting.tokens) == (len(self.model), sum(e.tokens for e in self.model))
        assert self.waiting.earliest() == min((e.deadline for e in self.model), default=float("inf"))


TestOrder = Order.TestCase


def test_many_threads_lose_and_cross_nothing(guard: Guard) -> None:
    texts = [f"text number {n} " * (n % 7 + 1) for n in range(40)]
    expected = {text: guard.check(text).score for text in texts}
    wrong: list[str] = []

    def client(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for n in rng.integers(0, len(texts), 25):
            try:
                ticket = guard.submit(texts[n], timeout=LONG)
                if rng.random() < 0.2:
                    ticket.cancel()
                if ticket.result(LONG).score != expected[texts[n]]:
                    wrong.append(texts[n])
            except (Cancelled, CancelledError, Overloaded):
                pass

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert not wrong
    assert guard.scheduler.load == (0, 0)


def test_a_stop_keeps_its_first_reason() -> None:
    stop = StopToken()
    stop.check()
    stop.request(Closed("first"))
    stop.request(Cancelled("second"))
    with pytest.raises(Closed, match="first"):
        stop.check()
