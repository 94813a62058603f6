"""Requests that run together: which, in what order, and that one's deadline, cancelling or fault is its own."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardpass import Bounds, Cancelled, Closed, DeadlineExceeded, EngineError, Guard, GuardpassError, Verdict
from guardpass.decide import ScoreOptions
from guardpass.engines.base import Engine
from guardpass.judge import Judge
from guardpass.plan import Pass
from guardpass.request import Request
from guardpass.run import Run, run_together
from guardpass.scheduling.queue import Batch, Entry, Waiting
from guardpass.stop import StopToken
from guardpass.windows import Limits

from ..support.engines import engine_of, put_engine

LONG = 30.0
LINES = "line " * 30  # of another length than the short texts


class Door:
    """The guard's engine as one that gains from batches, behind a door; long texts have another key than short ones."""

    requests, tokens = 4, 1000

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.door, self.entered = threading.Event(), threading.Semaphore(0)
        self.ran: list[int] = []  # passes of each batch
        self.fault: Callable[[], Any] = lambda: None

    def run(self, request: Pass) -> npt.NDArray[np.float32]:
        return self.run_batch([request])[0]

    def run_batch(self, requests: Sequence[Pass]) -> list[npt.NDArray[np.float32]]:
        self.entered.release()
        self.ran.append(len(requests))
        assert self.door.wait(LONG)
        self.fault()
        return [self.engine.run(request) for request in requests]

    def alike(self, tokens: int) -> int | None:
        return None if tokens > 300 else tokens // 30


@pytest.fixture
def held(two_sided: Path) -> Iterator[tuple[Guard, Door]]:
    """A guard whose engine has been entered by a first request, and its door, still closed."""
    with Guard.load(two_sided, threads=1, queue=Bounds(requests=20, tokens=5000)) as guard:
        engine = put_engine(guard, Door(engine_of(guard)))
        guard.submit("first")
        assert engine.entered.acquire(timeout=LONG)
        yield guard, engine
        engine.fault = lambda: None
        engine.door.set()


def _order(futures: dict[str, "Future[Verdict]"]) -> list[str]:
    """Names, filled in the order in which their verdicts come."""
    done: list[str] = []
    for name, future in futures.items():
        future.add_done_callback(lambda _, name=name: done.append(name))  # type: ignore[misc]
    return done


def _hold(engine: Door, size: int) -> tuple[threading.Event, threading.Event]:
    """Keep the next batch of a size: set when it is in the engine, and to be set to let it go on."""
    inside, go_on = threading.Event(), threading.Event()

    def fault() -> None:
        if engine.ran[-1] == size and not inside.is_set():
            inside.set()
            assert go_on.wait(LONG)

    engine.fault = fault
    return inside, go_on


def test_what_waits_and_is_alike_runs_together(held: tuple[Guard, Door], two_sided: Path) -> None:
    guard, engine = held
    texts = ["one", "two", LINES, "three", LINES + "x", "four", "five"]
    futures = {text: guard.submit(text) for text in texts}
    done = _order(futures)
    engine.door.set()
    assert guard.close(LONG)
    # Four at most; then those that came before the fifth of its like.
    assert engine.ran == [1, 4, 2, 1]
    assert done == ["one", "two", "three", "four", LINES, LINES + "x", "five"]
    with Guard.load(two_sided, threads=1) as other:
        assert [future.result().score for future in futures.values()] == [other.check(text).score for text in texts]


def test_tokens_bound_what_runs_together(held: tuple[Guard, Door]) -> None:
    guard, engine = held
    engine.tokens = 3 * guard.judge.request("one").tokens
    for _ in range(4):
        guard.submit("one")
    engine.door.set()
    assert guard.close(LONG)
    assert engine.ran == [1, 3, 1]


def test_a_request_alone_waits_for_nobody(held: tuple[Guard, Door]) -> None:
    guard, engine = held
    engine.door.set()
    assert guard.submit("alone").result(LONG).failure is None
    assert engine.ran == [1, 1]


def test_a_lower_priority_never_goes_before(held: tuple[Guard, Door]) -> None:
    guard, engine = held
    priorities = {"one": 0, "two": 0, "urgent": 1, LINES: 1, "urgent too": 1}
    done = _order({text: guard.submit(text, priority=each) for text, each in priorities.items()})
    engine.door.set()
    assert guard.close(LONG)
    assert done == ["urgent", "urgent too", LINES, "one", "two"]
    assert engine.ran == [1, 2, 1, 2]


def test_long_texts_and_several_questions_run_by_themselves(held: tuple[Guard, Door]) -> None:
    guard, engine = held
    futures: list[Any] = [guard.submit("word " * 250), guard.submit_many(["one", "two", "three"]), guard.submit("four")]
    engine.door.set()
    assert guard.close(LONG)
    assert engine.ran == [1, 1, 3, 1]
    assert len(futures[1].result()) == 3


def test_expired_and_cancelled_companions_never_reach_the_engine(held: tuple[Guard, Door]) -> None:
    guard, engine = held
    late, given_up, stays = guard.submit("late", timeout=0.05), guard.submit("given up"), guard.submit("stays")
    assert given_up.cancel()
    with pytest.raises(DeadlineExceeded, match="waited"):
        late.result(LONG)
    engine.door.set()
    assert stays.result(LONG).failure is None
    assert guard.close(LONG)
    assert engine.ran == [1, 1]


def test_a_deadline_or_a_cancel_while_it_runs_is_of_one_request_alone(held: tuple[Guard, Door]) -> None:
    guard, engine = held
    inside, go_on = _hold(engine, 3)
    late, given_up, stays = guard.submit("late", timeout=1.0), guard.submit("given up"), guard.submit("stays")
    engine.door.set()
    assert inside.wait(LONG)
    assert not given_up.cancel()
    with pytest.raises(DeadlineExceeded, match="ran"):
        late.result(LONG)
    go_on.set()
    assert stays.result(LONG).failure is None
    with pytest.raises(Cancelled):
        given_up.result(LONG)


def test_a_fault_of_the_engine_fails_its_batch_and_the_next_runs(held: tuple[Guard, Door]) -> None:
    guard, engine = held

    def breaks() -> None:
        if engine.ran[-1] == 2:
            raise MemoryError("the text itself")

    engine.fault = breaks
    futures = [guard.submit("one"), guard.submit("two"), guard.submit(LINES)]
    blocked = guard.submit(LINES * 2, on_error="block")
    engine.door.set()
    assert guard.close(LONG)
    for future in futures[:2]:
        with pytest.raises(EngineError, match="unexpectedly, with MemoryError") as raised:
            future.result()
        assert "the text itself" not in str(raised.value)
    assert futures[2].result().failure is None
    assert blocked.result().failure is None
    assert engine.ran == [1, 2, 1, 1]


def test_a_batch_that_hangs_is_one_hung_pass(held: tuple[Guard, Door]) -> None:
    guard, engine = held
    waiting = [guard.submit("hangs", timeout=LONG), *(guard.submit("hangs too", timeout=0.6) for _ in range(2))]
    inside, go_on = _hold(engine, 3)
    engine.door.set()
    assert inside.wait(LONG)
    for future in waiting[1:]:
        with pytest.raises(DeadlineExceeded):
            future.result(LONG)
    # Who is behind them goes on in a new thread, PATIENCE after the deadline.
    assert guard.submit("next", timeout=LONG).result(LONG).failure is None
    assert guard.scheduler.hung == 1
    assert not waiting[0].done()
    go_on.set()
    assert waiting[0].result(LONG).failure is None  # its own deadline had not passed
    assert guard.close(LONG)


def test_close_fails_all_of_a_batch_that_is_not_done_in_time(held: tuple[Guard, Door]) -> None:
    guard, engine = held
    inside, go_on = _hold(engine, 2)
    futures = [guard.submit("one"), guard.submit("two")]
    engine.door.set()
    assert inside.wait(LONG)
    assert guard.scheduler.load[0] == 2
    assert not guard.close(0.05)
    for future in futures:
        with pytest.raises(Closed):
            future.result(LONG)
    go_on.set()


def _entry(key: int | None, tokens: int, priority: int) -> Entry:
    batch = None if key is None else Batch(key, 3, 20, lambda *_: [], lambda parts: parts, lambda verdicts: verdicts)
    return Entry(lambda *_: None, lambda _: None, tokens, LONG, 0.0, priority, batch)


@given(
    st.lists(
        st.builds(_entry, st.one_of(st.none(), st.integers(0, 1)), st.integers(1, 12), st.integers(0, 1)), max_size=9
    )
)
def test_companions_are_alike_first_come_and_within_bounds(entries: list[Entry]) -> None:
    waiting = Waiting(Bounds(requests=100, tokens=1000))
    for entry in entries:
        waiting.add(entry)
    left = sorted(entries, key=lambda entry: (-entry.priority, entry.order))
    while left:
        head = waiting.take()
        assert head is left.pop(0)
        found = waiting.companions(head)
        expected, tokens = list[Entry](), head.tokens
        for entry in left:
            alike = entry.batch and head.batch and entry.batch.key == head.batch.key
            if alike and entry.priority == head.priority and len(expected) < 2 and tokens + entry.tokens <= 20:
                expected.append(entry)
                tokens += entry.tokens
        assert found == expected
        left = [entry for entry in left if entry not in expected]
        assert (len(waiting), waiting.tokens) == (len(left), sum(entry.tokens for entry in left))


def test_requests_that_run_together_fail_alone(guard: Guard) -> None:
    """Texts of several windows; one is stopped, one has a lone surrogate, and one round fails."""
    judge = Judge(guard.manifest, guard.judge.tokenizer, Limits(150, 16, "windows"))
    texts = ["one", "two words " * 60, "three words " * 40, "four " * 150]
    engine = engine_of(guard)
    alone = []
    for text in texts:
        run = Run(judge, judge.request(text))
        while (each := run.next) is not None:
            run.take(engine.run(each))
        alone.append(run.verdict())
    assert len({verdict.windows for verdict in alone}) > 2
    rounds = list[int]()

    def execute(passes: Sequence[Pass]) -> list[Any]:
        rounds.append(len(passes))
        if len(rounds) == max(verdict.windows for verdict in alone):
            raise EngineError("broken")
        return [engine.run(each) for each in passes]

    stopped = StopToken()
    stopped.request(Closed("closed"))
    starts = [partial(Run, judge, judge.request(text)) for text in texts]
    starts.append(partial(Run, judge, judge.request("stopped"), stop=stopped))
    answers = run_together(
        [*starts, partial(Run, judge, Request("prompt", ({"prompt": "\ud800"},), (), ScoreOptions(), 1))], execute
    )
    longest = max(range(4), key=lambda index: alone[index].windows)
    for index in range(4):
        answer = answers[index]
        if index == longest:
            assert isinstance(answer, EngineError)
        else:
            assert isinstance(answer, Verdict)
            assert (answer.score, answer.windows) == (alone[index].score, alone[index].windows)
    assert isinstance(answers[4], Closed)
    assert isinstance(answers[5], GuardpassError)
    assert rounds == [sum(verdict.windows > number for verdict in alone) for number in range(len(rounds))]
