"""Sessions and stops of engine native: every step is a fresh check bit for bit, and what runs can be ended."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from guardpass import Cancelled, DeadlineExceeded, Guard
from guardpass.bench.twins import find, tiny, write_twin
from guardpass.engines.base import Stoppable
from guardpass.engines.native import NativeEngine
from guardpass.errors import EngineError
from guardpass.export import export_guard
from guardpass.export.to_native.linear import RECIPES
from guardpass.plan import Pass
from guardpass.stop import StopToken

from ..support.engines import engine_of
from ..support.helpers import contents, pass_of, planner, texts
from ..support.published import CASES, Case
from ..support.twins import Twins

pytest.importorskip("guardpass_kernels")

_JUDGE_REPLIES = [case for case in CASES if "response" in case.row.modes]
_GUARDS = [pytest.param((case, quant), id=f"{case.family} {quant}") for case in _JUDGE_REPLIES for quant in RECIPES]


@pytest.fixture(scope="module", params=_GUARDS)
def replies(request: pytest.FixtureRequest, twins: Twins) -> Guard:
    case: Case
    case, quant = request.param
    path = twins.guard(case.twin, quant, engine="native", family=case.family, date=case.date)
    return Guard.load(path, threads=2, normalize="off")


def _chunks(text: str, seed: int) -> Iterator[str]:
    """Cut anywhere, also within what is one token, and empty ones between."""
    rng = random.Random(seed)
    cuts = sorted(rng.choices(range(len(text) + 1), k=10))
    return (text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True))


@pytest.mark.slow
def test_every_step_is_a_fresh_check_bit_for_bit(replies: Guard) -> None:
    """And runs what it must: the tokens from the first that changed on, and the tree."""
    retokenized = 0
    for seed, prompt in enumerate(texts(3, seed=11)):
        reply = "".join(texts(4, seed=seed + 20))
        with replies.stream(prompt) as session:
            before = np.empty(0, np.int64)
            for chunk in _chunks(reply, seed):
                found, fresh = session.feed(chunk), replies.check(prompt, session.text)
                assert (found.score, found.fields) == (fresh.score, fresh.fields)
                request = pass_of(replies, prompt, session.text)
                span = request.tokens[0, : request.tokens.size - len(request.tree_mask)]
                most = min(len(span), len(before))
                differ = np.flatnonzero(span[:most] != before[:most])
                kept = int(differ[0]) if len(differ) else most
                assert found.tokens.run == request.tokens.size - kept
                assert found.tokens.prefix == len(request.prefix_columns) + kept
                retokenized += kept < len(before)
                before = span
    assert retokenized > 3


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guard whose longest pass takes a while."""
    folder = tmp_path_factory.mktemp("slow")
    row = tiny(find("kanana-safeguard-8b"))
    row = replace(row, config=row.config | {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8})
    write_twin(row, folder / "twin")
    export_guard(folder / "twin", folder / "guard", engine="native", gate=False)
    return folder / "guard"


_LONG = "단어 " * 900


def _seconds(guard: Guard) -> float:
    began = time.perf_counter()
    guard.check(_LONG)
    return time.perf_counter() - began


def _watched(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, BaseException | None]]:
    """How long the engine's passes took that could be stopped, and what ended them."""
    ran: list[tuple[float, BaseException | None]] = []
    assert isinstance(engine_of(guard), Stoppable)
    inner: Callable[[Pass, StopToken], np.ndarray] = engine_of(guard).run_until

    def run_until(request: Pass, stop: StopToken) -> np.ndarray:
        began, why = time.perf_counter(), None
        try:
            return inner(request, stop)
        except BaseException as error:
            why = error
            raise
        finally:
            ran.append((time.perf_counter() - began, why))

    monkeypatch.setattr(engine_of(guard), "run_until", run_until, raising=False)
    return ran


def test_a_deadline_ends_a_pass_that_runs(slow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Guard.load(slow, threads=1, normalize="off") as guard:
        expected, whole = guard.check("after it").score, _seconds(guard)
        ran = _watched(guard, monkeypatch)
        for share in (0.2, 0.4, 0.6) * 5:
            with suppress(DeadlineExceeded):
                guard.submit(_LONG, timeout=share * whole).result(60)
            assert guard.submit("after it").result(60).score == expected
            if any(isinstance(why, DeadlineExceeded) for _, why in ran):
                break
        else:
            pytest.fail(f"of passes of {whole:.3f} s none was ended: {ran}")


def test_cancelling_ends_a_pass_that_runs(slow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Guard.load(slow, threads=2, normalize="off") as guard:
        expected, whole = guard.check("after it").score, _seconds(guard)
        ran = _watched(guard, monkeypatch)
        for share in (0.0, 0.2, 0.4, 0.6) * 2:
            ticket = guard.submit(_LONG)
            time.sleep(share * whole)
            ticket.cancel()
            with suppress(Cancelled, CancelledError):
                ticket.result(60)
            assert guard.submit("after it").result(60).score == expected
        assert any(isinstance(why, Cancelled) for _, why in ran), ran


def test_a_stop_ends_a_pass_soon_and_with_its_reason(slow: Path) -> None:
    guard = Guard.load(slow, threads=1, normalize="off")
    mode, given = contents(_LONG, None)
    plans = planner(guard, mode)
    request, whole = plans.plan(plans.span(given)), _seconds(guard)
    engine = engine_of(guard)
    assert isinstance(engine, NativeEngine)
    why, ended, raised = EngineError("enough"), 0, None
    for share in (0.1, 0.2, 0.3) * 3:
        stop = StopToken()
        timer = threading.Timer(share * whole, stop.request, [why])
        timer.start()
        began = time.perf_counter()
        try:
            engine.run_until(request, stop)
        except EngineError as error:
            raised = error
            ended += time.perf_counter() - began < 0.9 * whole
        timer.join()
    assert raised is why
    assert ended  # most of them, where the machine is not busy
    before = StopToken()
    before.request(why)
    with pytest.raises(EngineError, match="enough"):
        engine.run_until(request, before)
    np.testing.assert_array_equal(engine.run_until(request, StopToken()), engine.run(request))
