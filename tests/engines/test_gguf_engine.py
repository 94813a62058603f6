"""The llamacpp engine: its cache, its lock, its memory, its errors; and a branch that scores the same whatever runs."""

import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from guardpass import Cancelled, EngineError, Guard, InputError, MissingDependency
from guardpass.bench.twins import find, tiny
from guardpass.engines.llamacpp.engine import LlamaCppEngine
from guardpass.export import export_guard

from ..support.engines import engine_of
from ..support.helpers import opened, pass_of, scores, texts
from ..support.profiles import scaled
from ..support.twins import Twins, wide

_QUANTS = ("f16", "q8_0", "q4_k_m", "q4_0")


@pytest.fixture(scope="module")
def made(twins: Twins) -> Callable[..., Path]:
    """Guard directory of a family at a quant; rows are whole blocks of 256."""

    def make(quant: str = "f16", twin: str = "qwen3guard-gen-0.6b") -> Path:
        return twins.guard(wide(tiny(find(twin))), quant, engine="llamacpp")

    return make


def _engine(guard: Guard) -> LlamaCppEngine:
    engine = engine_of(guard)
    assert isinstance(engine, LlamaCppEngine)
    return engine


def _cells(guard: Guard) -> list[tuple[int, int]]:
    """First and last position of every sequence in the cache; -1 where it is empty."""
    context = _engine(guard).context
    ends = llama_cpp.llama_memory_seq_pos_min, llama_cpp.llama_memory_seq_pos_max
    return [(ends[0](context.memory, n), ends[1](context.memory, n)) for n in range(context.layout.sequences)]


@pytest.mark.parametrize("quant", _QUANTS)
@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.serial)])
def test_a_branch_scores_the_same_alone(quant: str, threads: int, made: Callable[..., Path]) -> None:
    """Every slot of the tree, and the slot at the end of nothing but its own path: equal, but for float32's rounding.

    llama.cpp at its defaults differs here by up to 0.4 on trained weights (docs/gguf.md).
    """
    guard = Guard.load(made(quant), threads=threads)
    for text, reply in zip(texts(4, seed=4, longest=60), texts(4, seed=5), strict=True):
        request = pass_of(guard, text, reply)
        whole, span = engine_of(guard).run(request)[0], request.tokens.size - len(request.tree_mask)
        for slot, row in enumerate(request.slots[0] - span):
            path = np.flatnonzero(request.tree_mask[row])
            kept = [*range(span), *(span + path)]
            alone = replace(
                request,
                tokens=request.tokens[:, kept],
                positions=request.positions[:, kept],
                slots=np.array([[len(kept) - 1]]),
                tree_mask=np.tri(len(path), dtype=np.bool_),
            )
            np.testing.assert_allclose(engine_of(guard).run(alone)[0, 0], whole[slot], rtol=0, atol=2e-6)


def test_policies_do_not_touch_each_other(made: Callable[..., Path]) -> None:
    guard = opened(made("q8_0", "shieldgemma-2b"))
    for text in texts(5, seed=9):
        together = guard.check(text)
        for policy, found in together.fields.items():
            alone = guard.check(text, policies=[policy]).fields[policy]
            assert found
            assert alone
            assert (alone.label, alone.score) == (found.label, pytest.approx(found.score, abs=1e-6))


def test_the_cache_is_back_to_the_prefix(made: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    guard = opened(made())
    chains = [len(mode.prefix) for mode in guard.manifest.modes.values()]
    clean = [(0, length - 1) for length in chains] + [(-1, -1)] * (
        _engine(guard).context.layout.sequences - len(chains)
    )
    before = scores(guard, "안녕 hello")
    assert _cells(guard) == clean

    def failing(error: BaseException | None) -> Callable[[Any, Any], int]:
        def decode(context: Any, batch: Any) -> int:
            assert real(context, batch) == 0  # the cells are taken
            if error:
                raise error
            return 1

        return decode

    real = llama_cpp.llama_decode
    for raised, expected in ((None, EngineError), (KeyboardInterrupt(), KeyboardInterrupt)):
        monkeypatch.setattr(llama_cpp, "llama_decode", failing(raised))
        with pytest.raises(expected):
            guard.check("다른 글")
        monkeypatch.undo()
        assert _cells(guard) == clean
    np.testing.assert_array_equal(scores(guard, "안녕 hello"), before)


@pytest.mark.serial
def test_no_order_and_no_thread_changes_a_verdict(made: Callable[..., Path]) -> None:
    guard = opened(made())
    given = texts(40, seed=12)
    expected = [guard.check(text).score for text in given]
    assert [guard.check(text).score for text in reversed(given)] == expected[::-1]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda text: guard.check(text).score, given)) == expected


def test_a_pass_that_runs_is_ended(made: Callable[..., Path]) -> None:
    """Before its first operator and amid it; what comes after is as before, and so is the cache."""
    guard = opened(made())
    expected, cells = guard.check("after it").score, _cells(guard)
    text, ended = "단어 " * 1500, 0
    for delay in (0.0, 0.02, 0.05, 0.1):
        ticket = guard.submit(text)
        time.sleep(delay)
        ticket.cancel()
        with pytest.raises((Cancelled, CancelledError)):
            ticket.result(60)
        ended += not ticket.cancelled()
        assert guard.submit("after it").result(60).score == expected
        assert _cells(guard) == cells
    assert ended


def test_ten_thousand_requests_do_not_grow_memory(made: Callable[..., Path]) -> None:
    guard = opened(made("f16", "kanana-safeguard-8b"))
    given = texts(50, seed=13, longest=8)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    for number in range(1000):
        guard.check(given[number % 50])
    settled = resident()
    for number in range(scaled(9000)):
        guard.check(given[number % 50])
    assert resident() - settled < 4 << 20


def test_longest_pass(made: Callable[..., Path]) -> None:
    """The cache holds the longest pass that `max_tokens` allows, and windows go on from there."""
    guard = Guard.load(made(), threads=1, max_tokens=2000, max_windows=64)
    assert guard.check("값 " * 3000, "뷁 " * 10).windows > 1
    with pytest.raises(InputError, match="expected at most one pass"):
        Guard.load(made(), threads=1, max_tokens=2000, long_text="refuse").check("값 " * 3000)


def test_device(made: Callable[..., Path], two_sided: Path) -> None:
    if not llama_cpp.llama_supports_gpu_offload():
        with pytest.raises(InputError, match=r"device is 'cuda', and this llama-cpp-python is built for CPUs"):
            Guard.load(made(), device="cuda")
    with pytest.raises(InputError, match="device is 'cuda', and this guard was exported for 'cpu'"):
        Guard.load(two_sided, device="cuda")
    with pytest.raises(InputError, match="device is 'tpu', expected one of: cpu, cuda"):
        Guard.load(made(), device="tpu")  # type: ignore[arg-type]


def test_without_llama_cpp_the_error_names_the_extra(
    made: Callable[..., Path], plain_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = made()
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(MissingDependency, match=r"guardpass\[gguf\]"):
        Guard.load(directory)
    with pytest.raises(MissingDependency, match=r"guardpass\[gguf\]"):
        export_guard(plain_checkpoint, tmp_path / "guard", engine="llamacpp", gate=False)
    assert not (tmp_path / "guard").exists()
