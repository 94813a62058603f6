"""Passes that keep keys and values of a span: the bits of fresh passes, whatever grew; and passes that are stopped."""

import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ..support.kernels_reference import ARCHITECTURES, Model, Pass

kernels = pytest.importorskip("guardpass_kernels", reason="guardpass-kernels is not installed: pip install ./kernels")

LEVELS = kernels.levels()


def _native(model: Model, threads: int = 2) -> Any:
    return kernels.Model(model.config, model.tensors, threads)


def _step(model: Model, rng: np.random.Generator, tokens: np.ndarray, chain: np.ndarray, tree: int) -> Pass:
    """A pass of these span tokens and a random tree behind them."""
    made = model.request(rng, len(tokens), tree, 2)
    positions = made.positions - len(made.chain) + len(chain)
    tree_tokens = made.tokens[len(tokens) :]
    slots = len(tokens) + rng.integers(0, tree, 2) if tree else np.full(2, len(tokens) - 1)  # may be one slot twice
    return replace(made, tokens=np.r_[tokens, tree_tokens], positions=positions, slots=slots, chain=chain)


def _grown(model: Model, seed: int) -> list[Pass]:
    """A span that grows by nothing, a token, some, more than a block; whose last tokens change, and shrink; anew."""
    rng = np.random.default_rng(seed)
    vocab, prefix = model.config["vocab"], model.config["prefix"]
    chain = np.flatnonzero(rng.random(prefix) < 0.8).astype(np.int32)
    tokens, steps = rng.integers(0, vocab, 3), []
    for dropped, new in ((0, 0), (0, 1), (1, 4), (0, 0), (0, 60), (3, 3), (0, 70), (65, 1), (0, 20), (500, 9), (0, 30)):
        tokens = np.r_[tokens[: max(0, len(tokens) - dropped)], rng.integers(0, vocab, new)]
        steps.append(_step(model, rng, tokens, chain, int(rng.integers(0, 9))))
    other = chain[:-1] if len(chain) else chain
    return [*steps, _step(model, rng, tokens, other, 5), _step(model, rng, tokens, chain, 5)]


def _common(a: Pass, b: Pass) -> int:
    """Tokens with which both spans begin, below the first slot of b; what a cache can keep."""
    spans = [each.tokens[: len(each.tokens) - len(each.sees)] for each in (a, b)]
    most = min(len(spans[0]), len(spans[1]), int(b.slots.min()))
    differ = np.flatnonzero(spans[0][:most] != spans[1][:most])
    return 0 if not np.array_equal(a.chain, b.chain) else int(differ[0]) if len(differ) else most


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("quant", ["int8", "int4"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_step_is_a_fresh_pass(kind: str, quant: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, on one thread and on three; and no more than the change and the tree is run."""
    monkeypatch.setenv("GUARDPASS_KERNELS_LEVEL", level)
    for seed, sizes in enumerate(({}, {"prefix": 0}, {"hidden": 50, "ffn": 35, "head_dim": 6, "prefix": 70})):
        model = Model.random(kind, seed, quant, **sizes)
        fresh, steps = _native(model), _grown(model, seed)
        for threads in (1, 3):
            made = _native(model, threads)
            cache, before = made.cache(max(len(step.tokens) for step in steps)), None
            for step in steps:
                found = made.run(*step.arguments, cache=cache)
                np.testing.assert_array_equal(found, fresh.run(*step.arguments))
                assert cache.kept == (_common(before, step) if before else 0)
                before = step


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_step_is_that_of_numpy(kind: str) -> None:
    model = Model.random(kind, prefix=20)
    steps = _grown(model, 0)
    made = _native(model)
    cache = made.cache(400)
    errors = [np.abs(made.run(*step.arguments, cache=cache) - model.run(step)).max() for step in steps]
    assert max(errors) < 0.1
    assert np.median(errors) < 2e-6


def test_caches_of_one_model_do_not_mix() -> None:
    model = Model.random("gemma2")
    made, fresh = _native(model), _native(model)
    texts = [(_grown(model, seed), made.cache(400)) for seed in range(3)]
    for number in range(len(texts[0][0])):
        for steps, cache in texts:
            step = steps[number].arguments
            made.run(*step)  # a pass without a cache between
            np.testing.assert_array_equal(made.run(*step, cache=cache), fresh.run(*step))


@pytest.mark.serial
def test_one_cache_from_several_threads() -> None:
    model = Model.random("llama")
    made, steps = _native(model), _grown(model, 1)
    expected, cache = [made.run(*step.arguments) for step in steps], made.cache(400)
    found: dict[tuple[int, int], np.ndarray] = {}

    def work(who: int) -> None:
        for number in np.random.default_rng(who).permutation(len(steps)):
            found[who, int(number)] = made.run(*steps[number].arguments, cache=cache)

    workers = [threading.Thread(target=work, args=(who,)) for who in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 3 * len(steps)
    for (_, number), scores in found.items():
        np.testing.assert_array_equal(scores, expected[number])


def test_a_cache_outlives_the_name_of_its_model() -> None:
    model = Model.random("llama")
    made = _native(model)
    cache, step = made.cache(400), _grown(model, 0)[4]
    expected = made.run(*step.arguments, cache=cache)
    del made
    other = _native(model)
    with pytest.raises(ValueError, match="cache is another model's, expected one that this model made"):
        other.run(*step.arguments, cache=cache)
    np.testing.assert_array_equal(other.run(*step.arguments), expected)


def test_what_no_cache_can() -> None:
    model = Model.random("llama")
    made, step = _native(model), _grown(model, 0)[1]
    for capacity in (0, -1, (1 << 20) + 1, 1 << 62):
        with pytest.raises(ValueError, match=f"capacity is {capacity}, expected 1 to 1048576 tokens"):
            made.cache(capacity)
    count = len(step.tokens)
    expected = made.run(*step.arguments, cache=made.cache(count))
    small = made.cache(count - 1)
    with pytest.raises(
        ValueError, match=f"tokens has {count} entries, expected at most the cache's capacity, {count - 1}"
    ):
        made.run(*step.arguments, cache=small)
    cache = made.cache(count)
    made.run(*step.arguments, cache=cache)
    with pytest.raises(ValueError, match="tokens"):  # a refusal leaves the cache as it was
        made.run(*replace(step, tokens=step.tokens + 50).arguments, cache=cache)
    np.testing.assert_array_equal(made.run(*step.arguments, cache=cache), expected)
    assert cache.kept > 0
    for wrong in ({"cache": model}, {"stop": True}):
        with pytest.raises(TypeError):
            made.run(*step.arguments, **wrong)


def _run_for_ever(made: Any, request: Pass, **options: Any) -> None:
    while True:  # a pass may be done before it is stopped
        made.run(*request.arguments, **options)


def test_a_pass_that_is_stopped() -> None:
    """Before it begins, and amid it, with a cache and without; what comes after is right."""
    model = Model.random("qwen3", hidden=512, ffn=2048, layers=12)
    made, rng = _native(model), np.random.default_rng(0)
    chain = np.arange(9, dtype=np.int32)
    tokens = rng.integers(0, 50, 900)
    short, long = (_step(model, rng, tokens[:count], chain, 5) for count in (300, 900))
    began = time.perf_counter()
    expected = made.run(*long.arguments)
    whole = time.perf_counter() - began
    cache = made.cache(1000)
    made.run(*short.arguments, cache=cache)
    for given in (None, cache):
        for share in (0.0, 0.2, 0.5):
            stop = kernels.Stop()
            timer = threading.Timer(share * whole, stop.set)
            timer.start() if share else stop.set()
            with pytest.raises(kernels.Stopped, match="asked to stop"):
                _run_for_ever(made, long, cache=given, stop=stop)
            timer.cancel()
    np.testing.assert_array_equal(made.run(*long.arguments, stop=kernels.Stop()), expected)
    made.run(*short.arguments, cache=cache)
    assert cache.kept >= 298
    np.testing.assert_array_equal(made.run(*long.arguments, cache=cache), expected)
