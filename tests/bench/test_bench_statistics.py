"""Statistics of `guardpass bench` against numpy, scipy and simulation; arrivals; operations against torch's count."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from guardpass import InputError
from guardpass.bench.speed.measure.arrivals import arrivals
from guardpass.bench.speed.measure.flops import causal, operations
from guardpass.bench.speed.report.statistics import (
    paired_ratio,
    quantile_interval,
    ratio_interval,
    share_interval,
    summary,
)
from guardpass.export.checkpoint.architecture import Architecture
from guardpass.export.checkpoint.config import read_architecture
from guardpass.export.checkpoint.files import Checkpoint

_times = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=500)


@given(_times)
def test_a_summary_is_numpys(samples: list[float]) -> None:
    found = summary(samples)
    values = np.array(samples)
    assert found.n == len(samples)
    assert found.least == values.min()
    np.testing.assert_allclose(found.mean, values.mean())
    np.testing.assert_allclose(found.median, np.quantile(values, 0.5))
    assert (found.stddev is None) == (len(samples) == 1)
    if found.stddev is not None:
        np.testing.assert_allclose(found.stddev, values.std(ddof=1), rtol=1e-9, atol=1e-9)
    for percentile, q in ((found.p95, 0.95), (found.p99, 0.99)):
        if percentile is not None:
            np.testing.assert_allclose(percentile, np.quantile(values, q))


@pytest.mark.parametrize(("q", "n"), [(0.5, 6), (0.95, 72), (0.99, 368)])
def test_a_percentile_needs_as_many_samples_as_scipys_interval(q: float, n: int) -> None:
    """Below that scipy leaves an end open: both tails of 2.5 % have to hold a sample."""
    for count, carried in ((n - 1, False), (n, True)):
        samples = np.arange(1.0, count + 1)
        ends = scipy.stats.quantile_test(samples, q=0.5, p=q).confidence_interval(0.95)
        assert bool(np.isfinite(ends).all()) == carried
        assert (quantile_interval(samples.tolist(), q) is not None) == carried
        found = summary(samples.tolist())
        assert ({0.5: found.median_interval, 0.95: found.p95, 0.99: found.p99}[q] is not None) == carried


@given(st.integers(1, 3000), st.sampled_from([0.5, 0.9, 0.95, 0.99]), st.sampled_from([0.9, 0.95, 0.975]))
def test_intervals_are_scipys(n: int, q: float, level: float) -> None:
    samples = np.random.default_rng(n).exponential(size=n)
    ends = scipy.stats.quantile_test(samples, q=1, p=q).confidence_interval(level)
    found = quantile_interval(samples.tolist(), q, level)
    assert found == (tuple(ends) if np.isfinite(ends).all() else None)


@pytest.mark.parametrize(("q", "n"), [(0.5, 9), (0.5, 40), (0.95, 80)])
def test_intervals_hold_the_truth_as_often_as_they_say(q: float, n: int) -> None:
    """Of samples with a heavy tail; a count below this happens once in a million runs, were it really 95 %."""
    draws = np.random.default_rng(0).lognormal(size=(2000, n))
    truth = math.exp(scipy.stats.norm.ppf(q))
    intervals = [quantile_interval(row.tolist(), q) or (0, 0) for row in draws]
    held = sum(low <= truth <= high for low, high in intervals)
    assert held >= scipy.stats.binom.ppf(1e-6, len(draws), 0.95)
    assert held < len(draws)  # and are no wider than they need to be


@pytest.mark.parametrize(("n", "m"), [(9, 9), (20, 60)])
def test_ratios_of_separate_runs_hold_the_truth_as_often_as_they_say(n: int, m: int) -> None:
    rng, held = np.random.default_rng(1), 0
    for _ in range(1000):
        slow, fast = (2 * rng.lognormal(sigma=0.3, size=n)).tolist(), rng.lognormal(sigma=0.3, size=m).tolist()
        medians = float(np.median(slow)), float(np.median(fast))
        ends = ratio_interval(medians[0], quantile_interval(slow, 0.5), medians[1], quantile_interval(fast, 0.5)) or (
            0,
            0,
        )
        assert ends[0] <= medians[0] / medians[1] <= ends[1]
        held += ends[0] <= 2 <= ends[1]
    assert scipy.stats.binom.ppf(1e-6, 1000, 0.95) <= held < 1000
    assert ratio_interval(2.0, (1.0, 3.0), 1.0, None) is None
    assert ratio_interval(0.0, (0.0, 0.1), 1.0, (0.9, 1.0)) is None


def test_ratios_are_within_turns() -> None:
    """A machine that drifts by half moves both alike, and leaves their ratio as it is."""
    rng = np.random.default_rng(0)
    drift = rng.uniform(1, 1.5, 60)
    ours, peer = (ms * drift * rng.normal(1, 0.01, 60) for ms in (10.0, 12.0))
    ratio, interval = paired_ratio(peer.tolist(), ours.tolist())
    np.testing.assert_allclose(ratio, np.median(peer / ours))
    assert interval is not None
    assert 1.19 < interval[0] < 1.2 < interval[1] < 1.21
    assert paired_ratio([2.0, 3.0], [1.0, 1.0]) == (2.5, None)


@given(st.integers(1, 5000), st.floats(0, 1))
def test_shares_are_scipys(n: int, share: float) -> None:
    hits = round(share * n)
    ends = scipy.stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(share_interval(hits / n, n), tuple(ends), atol=1e-12)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: summary([]), "found 0 samples, expected at least one"),
        (lambda: summary([1.0, math.nan]), "found 2 samples, expected .* all finite"),
        (lambda: paired_ratio([1.0], [1.0, 2.0]), "found 1 and 2 turns, expected as many"),
        (lambda: paired_ratio([1.0], [0.0]), "a time that is not positive"),
        (lambda: share_interval(1.5, 10), "a share of 1.5 of 10"),
        (lambda: arrivals(0.0, 1, 0), "found a rate of 0.0, 1 requests and seed 0, expected a rate above 0"),
        (lambda: arrivals(math.inf, 1, 0), "a rate of inf"),
        (lambda: arrivals(1.0, 0, 0), "0 requests"),
        (lambda: arrivals(1.0, 1, -1), "seed -1"),
    ],
)
def test_what_cannot_be_summed_up(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        call()


def test_arrivals_are_a_poisson_process() -> None:
    times = arrivals(4.0, 20_000, seed=0)
    gaps = np.diff(times, prepend=0)
    assert scipy.stats.kstest(gaps, "expon", args=(0, 1 / 4)).pvalue > 0.01
    counts = np.bincount(times.astype(int))[: int(times[-1])]
    assert abs(counts.mean() - 4) < 0.1
    assert abs(counts.var() - 4) < 0.25  # of a Poisson process as large as the mean
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 0.03


def test_arrivals_are_the_same_wherever_they_are_drawn() -> None:
    """From PCG64's raw stream, which numpy guarantees, by hand; and as they were when this was written."""
    raw = np.random.PCG64(7).random_raw(50)
    gaps = [-math.log1p(-(int(word) >> 11) * 2.0**-53) for word in raw]
    np.testing.assert_allclose(arrivals(1.0, 50, seed=7), np.cumsum(gaps), rtol=1e-12)
    np.testing.assert_allclose(arrivals(2.0, 4, seed=0), [0.50662345, 0.66383276, 0.68475106, 0.69308393], rtol=1e-7)
    np.testing.assert_allclose(arrivals(3.0, 50, seed=7) * 3, arrivals(1.0, 50, seed=7))
    assert not np.array_equal(arrivals(1.0, 50, seed=8), arrivals(1.0, 50, seed=7))


_SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "attn_implementation": "eager",
}
_MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SIZES)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**_SIZES, sliding_window=12, query_pre_attn_scalar=20)),
}


def _saved(model: Any, directory: Path) -> Architecture:
    model.save_pretrained(directory)
    return read_architecture(Checkpoint(directory))


@pytest.mark.parametrize("name", _MODELS)
@pytest.mark.parametrize("kept", [1, 40])
def test_operations_are_those_torch_counts(name: str, kept: int, tmp_path: Path) -> None:
    """transformers' eager attention multiplies masked columns too, so that every token sees all of them."""
    model = _MODELS[name]().eval()
    shape, tokens = _saved(model, tmp_path), 40
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(torch.zeros(1, tokens, dtype=torch.long), logits_to_keep=kept, use_cache=False)
    counts = counter.get_flop_counts()
    angles = sum(sum(each.values()) for module, each in counts.items() if module.endswith(".rotary_emb"))
    every = np.full(tokens, tokens)
    # Its windows are masked columns as well.
    whole = shape.__class__(**vars(shape) | {"windows": (None,) * shape.layers})
    found = operations(whole, every, np.arange(tokens)[-kept:], shape.vocab, pruned=False)
    assert found == counter.get_total_flops() - angles


def test_operations_that_a_pruned_pass_leaves_out(tmp_path: Path) -> None:
    """By hand: 10 tokens behind 5 baked ones, the last 2 scored by 3 rows, the first layer's window 8."""
    shape = _saved(_MODELS["llama"](), tmp_path)
    shape = shape.__class__(**vars(shape) | {"windows": (8, None, None)})
    visible, slots = causal(10, 15), np.array([8, 9])
    assert visible.tolist() == [6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    keys, rest = 2 * 48 * 32, 2 * 48 * 64 + 3 * 48 * 96
    first = 10 * 2 * (keys + rest) + 4 * 64 * (6 + 7 + 8 * 8)
    second = 10 * 2 * (keys + rest) + 4 * 64 * 105
    last = 10 * 2 * keys + 2 * 2 * rest + 4 * 64 * (14 + 15)
    assert operations(shape, visible, slots, 3) == first + second + last + 2 * 2 * 48 * 3
    whole = 10 * 2 * (keys + rest) + 4 * 64 * 105
    assert operations(shape, visible, slots, 3, pruned=False) == first + second + whole + 2 * 2 * 48 * 3
