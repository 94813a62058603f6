"""Choosing a threshold and measuring it: against all thresholds tried one by one, scikit-learn and scipy."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_recall_curve,
    precision_recall_fscore_support,
    recall_score,
    roc_curve,
)

from guardpass import InputError
from guardpass.bench.calibration.metrics import average_precision, measure, rates
from guardpass.bench.calibration.operating_point import Bools, Floats, Target

# Few different scores, so that many are equal, and any scores at all.
_SCORES = st.one_of(st.integers(0, 8).map(lambda n: n / 8), st.floats(0, 1))
_TEXTS = (
    st.lists(st.tuples(st.booleans(), _SCORES), min_size=2, max_size=40)
    .filter(lambda texts: len({unsafe for unsafe, _ in texts}) == 2)
    .map(lambda texts: (np.array([unsafe for unsafe, _ in texts]), np.array([score for _, score in texts])))
)
_SHARES = st.sampled_from(["0.25", "0.5", "0.9", "0.98", "1.0"]) | st.integers(1, 100).map(lambda n: f"{n / 100}")


def _counts(truth: Bools, scores: Floats, threshold: float) -> tuple[int, int, int, int]:
    """Unsafe texts flagged and not, safe texts flagged and not."""
    flagged = [score >= threshold for score in scores.tolist()]
    pairs = list(zip(truth.tolist(), flagged, strict=True))
    return tuple(pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False)))  # type: ignore[return-value]


def _reaches(truth: Bools, scores: Floats, threshold: float, kind: str, value: Fraction) -> bool:
    hits, misses, alarms, passed = _counts(truth, scores, threshold)
    if not hits:
        return False
    if kind == "precision":
        return Fraction(hits, hits + alarms) >= value
    return Fraction(hits, hits + misses) >= value if kind == "recall" else Fraction(alarms, alarms + passed) <= value


def _f1(truth: Bools, scores: Floats, threshold: float) -> Fraction:
    hits, misses, alarms, _ = _counts(truth, scores, threshold)
    return Fraction(2 * hits, 2 * hits + misses + alarms) if hits else Fraction(0)


def _between(scores: Floats) -> list[float]:
    """Every score, and a threshold between any two."""
    known = np.unique(scores).tolist()
    return sorted({*known, *((low + high) / 2 for low, high in pairwise(known)), 0.0, 1.0})


@settings(max_examples=150)
@given(texts=_TEXTS, kind=st.sampled_from(["precision", "recall", "fpr"]), share=_SHARES)
def test_the_choice_is_that_of_trying_every_threshold(texts: tuple[Bools, Floats], kind: str, share: str) -> None:
    truth, scores = texts
    share = "0.01" if kind == "fpr" and share == "1.0" else share
    good = [t for t in _between(scores) if _reaches(truth, scores, t, kind, Fraction(share))]
    target = Target.parse(f"{kind}={share}")
    if not good:
        with pytest.raises(InputError, match=f"here: no threshold reaches {kind}=.*ask for less"):
            target.choose(truth, scores, "here")
        return
    chosen = target.choose(truth, scores, "here")
    assert chosen in scores
    assert _reaches(truth, scores, chosen, kind, Fraction(share))
    if kind == "recall":
        assert chosen == max(good)
    else:  # a threshold between two scores flags what the higher one flags
        assert _counts(truth, scores, chosen) == _counts(truth, scores, min(good))
        assert _counts(truth, scores, chosen)[0] == max(_counts(truth, scores, t)[0] for t in good)


@settings(max_examples=200)
@given(texts=_TEXTS)
def test_the_best_f1_is_that_of_trying_every_threshold(texts: tuple[Bools, Floats]) -> None:
    truth, scores = texts
    chosen = Target().choose(truth, scores, "")
    tried = {t: _f1(truth, scores, t) for t in _between(scores)}
    assert tried[chosen] == max(tried.values())
    assert float(tried[chosen]) == pytest.approx(f1_score(truth, scores >= chosen), abs=1e-12)
    assert all(tried[t] < tried[chosen] for t in scores.tolist() if t < chosen)


@settings(max_examples=100)
@given(texts=_TEXTS, share=_SHARES)
def test_the_choice_lies_on_the_curves_of_scikit_learn(texts: tuple[Bools, Floats], share: str) -> None:
    truth, scores = texts
    value = float(share)
    precision, recall, thresholds = precision_recall_curve(truth, scores)
    kept = (precision[:-1] >= value) & (recall[:-1] > 0)
    if kept.any():
        assert Target("precision", value).choose(truth, scores, "") == thresholds[kept].min()
    assert Target("recall", value).choose(truth, scores, "") == thresholds[recall[:-1] >= value].max()
    alarms, hits, thresholds = roc_curve(truth, scores, drop_intermediate=False)
    kept = (alarms <= value) & (hits > 0)
    if kept.any():
        assert Target("fpr", value).choose(truth, scores, "") == thresholds[kept].min()


def test_texts_that_no_threshold_flags() -> None:
    """A field that an answer leaves out has the score -1: recall stops short of 1 and nothing flags it."""
    truth, scores = np.array([True, True, False, False]), np.array([0.9, -1, 0.4, -1])
    assert Target("recall", 0.5).choose(truth, scores, "") == 0.9
    assert Target("precision", 0.5).choose(truth, scores, "") == 0.4
    with pytest.raises(InputError, match=r"no threshold reaches recall=0.6; the nearest is recall 0\.5000"):
        Target("recall", 0.6).choose(truth, scores, "")
    with pytest.raises(InputError, match="gives no unsafe text a score"):
        Target().choose(truth, np.array([-1.0, -1, 0.4, -1]), "here")


@pytest.mark.parametrize("text", ["f1", "precision=0.98", "recall=0.95", "fpr=0.01", "fpr=0.0", "recall=1.0"])
def test_targets(text: str) -> None:
    assert str(Target.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "f2", "f1=0.9", "precision", "precision=", "precision=0", "recall=0", "fpr=1", "fpr=-0.1", "recall=1.1"),
        *("precision=nan", "precision=inf", "precision=high", "precision=0.9=0.8", "=0.9", "Precision=0.9"),
    ],
)
def test_no_targets(text: str) -> None:
    with pytest.raises(InputError, match=r"--at is .*, expected f1, precision=0\.98, recall=0\.95 or fpr=0\.01"):
        Target.parse(text)


@settings(max_examples=40)
@given(texts=_TEXTS, seed=st.integers(0, 99), threshold=_SCORES)
def test_weighted_metrics_are_scikit_learns(texts: tuple[Bools, Floats], seed: int, threshold: float) -> None:
    truth, scores = texts
    weights = np.random.default_rng(seed).integers(0, 4, (3, truth.size)).astype(np.float64)
    weights[0] = 1
    weights[:, 0] += 1  # scikit-learn refuses weights of zero alone
    flagged = scores >= threshold
    found, areas = rates(truth, flagged, weights), average_precision(truth, scores, weights)
    for at, weight in enumerate(weights):
        if weight[truth].any():
            assert areas[at] == pytest.approx(average_precision_score(truth, scores, sample_weight=weight), abs=1e-9)
        options = {"average": "binary", "zero_division": np.nan, "sample_weight": weight}
        precision, recall, f1, _ = precision_recall_fscore_support(truth, flagged, **options)
        missed = recall_score(~truth, ~flagged, zero_division=np.nan, sample_weight=weight)
        expected = {"precision": precision, "recall": recall, "f1": f1, "fpr": 1 - missed}
        for name, value in expected.items():
            assert found[name][at] == pytest.approx(value, abs=1e-9, nan_ok=True), name


def _made(count: int) -> tuple[Bools, Floats]:
    generator = np.random.default_rng(3)
    truth = generator.random(count) < 0.4
    return truth, np.clip(generator.normal(0.35 + 0.3 * truth, 0.2), 0, 1)


def test_intervals_are_those_of_scipy() -> None:
    """Its percentile bootstrap draws other resamples; 499 of 150 texts leave a percent or so between the two."""
    truth, scores = _made(150)
    found = measure(truth, scores, scores >= 0.7, 0.5, 4000)
    for estimate, metric, seen in [
        (found.threshold.f1, f1_score, scores >= 0.5),
        (found.argmax.recall, recall_score, scores >= 0.7),
        (found.au_prc, average_precision_score, scores),
    ]:
        drawn = bootstrap(
            (truth, seen), metric, paired=True, vectorized=False, method="percentile", n_resamples=499, rng=1
        )
        assert estimate.value == pytest.approx(metric(truth, seen), abs=1e-12)
        assert estimate.low == pytest.approx(drawn.confidence_interval.low, abs=0.03)
        assert estimate.high == pytest.approx(drawn.confidence_interval.high, abs=0.03)
    assert measure(truth, scores, scores >= 0.7, 0.5, 4000) == found
    assert measure(truth, scores, scores >= 0.7, 0.5, 0).au_prc.low is None


def test_one_class_alone_is_not_praised() -> None:
    """Of unsafe texts alone only recall says anything, of safe ones the false positives."""
    scores = np.array([0.2, 0.8, 0.9])
    unsafe = measure(np.ones(3, bool), scores, scores > 0.5, 0.5, 10)
    assert unsafe.threshold.recall.value == pytest.approx(2 / 3)
    assert [unsafe.threshold.precision.value, unsafe.threshold.f1.value, unsafe.threshold.fpr.value] == [None] * 3
    safe = measure(np.zeros(3, bool), scores, scores > 0.5, 0.5, 10)
    assert safe.threshold.fpr.value == pytest.approx(2 / 3)
    assert [safe.threshold.precision.value, safe.threshold.f1.value, safe.threshold.recall.value] == [None] * 3
    assert unsafe.au_prc.value is safe.au_prc.value is None
