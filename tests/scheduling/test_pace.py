"""What a turn is foretold to take, after what turns took."""

import random

from hypothesis import given
from hypothesis import strategies as st

from guardpass.scheduling.pace import LatencyEstimator

SHORT, LONG = (1, 30), (4, 6700)  # passes, tokens


@given(st.floats(1e-5, 1.0), st.floats(1e-7, 1e-2), st.integers(0, 1 << 30), st.floats(0.0, 0.3))
def test_short_and_long_are_told_apart(fixed: float, each: float, seed: int, noise: float) -> None:
    """Both within what varies, on the slow side, whatever either part is."""
    rng, latency = random.Random(seed), LatencyEstimator()
    for _ in range(600):
        passes, tokens = LONG if rng.random() < 0.05 else SHORT
        latency.update(passes, tokens, (fixed * passes + each * tokens) * rng.lognormvariate(0.0, noise))
    for passes, tokens in (SHORT, LONG):
        assert 0.8 < latency.estimate(passes, tokens) / (fixed * passes + each * tokens) < 1.3 + 9 * noise


def test_nothing_is_foretold_before_anything_ran() -> None:
    assert LatencyEstimator().estimate(*LONG) == 0.0


def test_short_texts_alone_do_not_make_long_ones_ten_times_too_long() -> None:
    """The fixed part was taken for one by tokens: 30 tokens in 10 ms made 6700 of them 2.2 s and more."""
    latency = LatencyEstimator()
    for _ in range(100):
        latency.update(*SHORT, 0.01)
    assert latency.estimate(*LONG) < 1.0


def test_the_machine_becomes_slower_and_faster_again() -> None:
    latency = LatencyEstimator()
    for factor in (1.0, 5.0, 1.0):
        for n in range(40):
            latency.update(*(LONG if n == 20 else SHORT), factor * (2.0 if n == 20 else 0.01))
        assert 0.9 * factor < latency.estimate(*SHORT) / 0.01 < 2.5 * factor


def test_one_turn_that_took_far_too_long_is_soon_forgotten() -> None:
    latency = LatencyEstimator()
    for n in range(100):
        latency.update(*SHORT, 10.0 if n == 50 else 0.01)
        assert latency.estimate(*SHORT) < 0.2
    assert latency.estimate(*SHORT) < 0.015


def test_a_turn_that_was_stopped_tells_the_least_it_takes() -> None:
    latency = LatencyEstimator()
    latency.update(*LONG, 1.0, finished=False)
    assert latency.estimate(*LONG) == 0.0  # nothing is known of any
    for _ in range(50):
        latency.update(*SHORT, 0.01)
    before = latency.estimate(*LONG)
    latency.update(*LONG, 0.0001, finished=False)
    assert latency.estimate(*LONG) == before
    for _ in range(20):
        latency.update(*LONG, 10.0, finished=False)
    assert latency.estimate(*LONG) > 5.0


def test_a_long_text_that_was_too_slow_once_is_tried_again_some_day() -> None:
    """Else one bad moment would keep long texts out for ever, as they would never run again."""
    latency = LatencyEstimator()
    for n in range(3000):
        latency.update(*(LONG if n == 50 else SHORT), 100.0 if n == 50 else 0.01)
    assert latency.estimate(*LONG) < 10.0
