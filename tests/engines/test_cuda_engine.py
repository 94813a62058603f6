"""Engine onnx on CUDA, on the CPU: all but the capture of a graph is the same code."""

import gc
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from guardpass import BadScores, EngineError, Guard
from guardpass.engines.base import Batching
from guardpass.engines.onnx.cpu import OnnxEngine
from guardpass.engines.onnx.cuda import _THREAD, CudaEngine
from guardpass.engines.onnx.cuda_session import ON_CPU
from guardpass.engines.single_thread import SingleThread
from guardpass.plan import Pass

from ..support.engines import engine_of, put_engine
from ..support.helpers import planner
from ..support.tiny_attention import POISON, texts, write

# Sums of a few hundred float32 products in another order; scores are some units.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def model(guard: Guard, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph for any batch, with the columns of `guard`."""
    return write(tmp_path_factory.mktemp("cuda") / "model.onnx", guard.manifest)


@pytest.fixture(scope="module")
def engine(guard: Guard, model: Path) -> CudaEngine:
    return CudaEngine(model, guard.manifest, provider=ON_CPU)


@pytest.fixture(scope="module")
def plans(guard: Guard) -> list[Pass]:
    """Passes of both modes, of many lengths, one longer than any captured graph."""
    prompt, response = planner(guard, "prompt"), planner(guard, "response")
    found = [prompt.plan(prompt.span({"prompt": text})) for text in [*texts(40), "long " * 600]]
    return found + [response.plan(response.span({"prompt": text, "response": text})) for text in texts(9, seed=1)]


def test_a_batch_scores_as_each_pass_alone(guard: Guard, model: Path, engine: CudaEngine, plans: list[Pass]) -> None:
    """In any company, in any order, padded or as they are."""
    exact = OnnxEngine(model, guard.manifest, threads=1)
    expected = [exact.run(request) for request in plans]
    assert max(request.tokens.size for request in plans) > 512
    order = np.random.default_rng(0).permutation(len(plans))
    together = dict(zip(order, engine.run_batch([plans[n] for n in order]), strict=True))
    for n, request in enumerate(plans):
        assert expected[n].shape == together[n].shape == (1, request.slots.size, len(guard.manifest.columns))
        assert np.isfinite(expected[n]).all()
        np.testing.assert_allclose(engine.run(request), expected[n], **CLOSE)
        np.testing.assert_allclose(together[n], expected[n], **CLOSE)
    assert engine.run_batch([]) == []


def test_scores_of_one_pass_outlive_the_next(engine: CudaEngine, plans: list[Pass]) -> None:
    """The memory of a shape is used again."""
    first = engine.run(plans[0])
    kept = first.copy()
    engine.run(replace(plans[0], tokens=plans[0].tokens[:, ::-1].copy()))
    assert (first == kept).all()


def test_what_is_no_number_stays_in_its_row(engine: CudaEngine, plans: list[Pass]) -> None:
    bad = replace(plans[1], tokens=np.full_like(plans[1].tokens, POISON))
    found = engine.run_batch([plans[0], bad, plans[2]])
    assert [bool(np.isfinite(scores).all()) for scores in found] == [True, False, True]
    for one, request in ((found[0], plans[0]), (found[2], plans[2])):
        np.testing.assert_allclose(one, engine.run(request), **CLOSE)


def test_scores_of_another_shape_are_refused(guard: Guard, model: Path, plans: list[Pass]) -> None:
    wider = replace(guard.manifest, columns=(*guard.manifest.columns, 1))
    with pytest.raises(EngineError):
        CudaEngine(model, wider, provider=ON_CPU).run(plans[0])


def test_a_model_that_cannot_be_opened(guard: Guard, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(EngineError, match=r"cannot open model.onnx on CPUExecutionProvider"):
        CudaEngine(tmp_path / "model.onnx", guard.manifest, provider=ON_CPU)


def test_a_failed_pass_says_how_large_it_was(engine: CudaEngine, plans: list[Pass]) -> None:
    unknown = replace(plans[0], tokens=np.full_like(plans[0].tokens, 1 << 40))
    with pytest.raises(EngineError, match=r"onnxruntime failed on passes of 1 x \d+ tokens"):
        engine.run(unknown)
    assert np.isfinite(engine.run(plans[0])).all()


def test_an_engine_gives_its_memory_back_in_the_lane(guard: Guard, model: Path, plans: list[Pass]) -> None:
    engine = CudaEngine(model, guard.manifest, provider=ON_CPU)
    engine.run(plans[0])
    opened, session = engine._opened, weakref.ref(engine._opened._session)
    del engine
    gc.collect()
    _THREAD.run(lambda: None)  # what was posted before is done
    gc.collect()
    assert session() is None
    assert not opened._bound


def test_the_lane_is_one_thread_that_no_failure_ends() -> None:
    lane, seen = SingleThread("a lane"), list[str]()

    def fails() -> None:
        raise KeyError("lane")

    for _ in range(3):
        lane.post(fails)
        with pytest.raises(KeyError):
            lane.run(fails)
    clients = [
        threading.Thread(target=lambda: seen.append(lane.run(lambda: threading.current_thread().name)))
        for _ in range(8)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join(30)
    assert seen == ["a lane"] * 8
    assert sum(thread.name == "a lane" for thread in threading.enumerate()) == 1


@pytest.fixture
def batching(two_sided: Path, engine: CudaEngine) -> Guard:
    """A guard whose engine gains from batches."""
    guard = Guard.load(two_sided, normalize="off")
    put_engine(guard, engine)
    assert isinstance(engine, Batching)
    return guard


def test_verdicts_do_not_depend_on_company(batching: Guard) -> None:
    """Through the queue, in whatever batches come about; several questions of one request; long texts between."""
    items = [*texts(60, seed=3), "long " * 600, *((text, text) for text in texts(10, seed=4))]
    alone = [batching.check(*(item if isinstance(item, tuple) else (item, None))) for item in items]
    submitted = []
    for item in items:
        submitted.append(batching.submit(*(item if isinstance(item, tuple) else (item, None))))
        while batching.scheduler.load[0] > 40:
            time.sleep(0.001)
    found = [future.result(60) for future in submitted]
    for several in (found, batching.submit_many(items).result(60)):
        for one, other in zip(several, alone, strict=True):
            assert (one.label, one.safe, one.tokens, one.windows) == (
                other.label,
                other.safe,
                other.tokens,
                other.windows,
            )
            assert one.score == pytest.approx(other.score, abs=1e-4)
    assert batching.close(30)


def test_a_text_that_brings_no_numbers_fails_alone(batching: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(batching)
    good = batching.check("a text").score
    sizes = list[int]()

    def run_batch(requests: list[Pass]) -> list[npt.NDArray[np.float32]]:
        sizes.append(len(requests))
        found = CudaEngine.run_batch(engine, requests)  # type: ignore[arg-type]
        return [
            each * np.nan if request.tokens.size > 40 else each for each, request in zip(found, requests, strict=True)
        ]

    monkeypatch.setattr(engine, "run_batch", run_batch)
    with pytest.raises(BadScores):
        batching.submit_many(["a text", "a text " * 40]).result(30)
    assert sizes == [2]
    assert batching.submit("a text").result(30).score == pytest.approx(good, abs=1e-4)
    blocked = batching.submit("a text " * 40, on_error="block").result(30)
    assert not blocked.safe
    assert blocked.failure is not None
    assert blocked.failure.kind == "bad_scores"
    assert batching.close(30)
