"""How well flags and scores fit labels: scikit-learn's metrics, with intervals from resampled texts."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .operating_point import Bools, Floats

_CHUNK = 1 << 20  # weights held at once


@dataclass(frozen=True)
class Estimate:
    """A metric with its 95 % interval over resampled texts; None where the metric is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Flagging:
    """How well flags fit labels. fpr: share of the safe texts that are flagged."""

    f1: Estimate
    precision: Estimate
    recall: Estimate
    fpr: Estimate


@dataclass(frozen=True)
class Metrics:
    """Metrics of one set of texts. au_prc: average precision of the scores, independent of a threshold."""

    texts: int
    unsafe: int
    au_prc: Estimate
    argmax: Flagging
    threshold: Flagging


def measure(truth: Bools, scores: Floats, argmax: Bools, threshold: float, resamples: int) -> Metrics:
    """Metrics for texts with labels [N], scores [N] and flags by argmax [N], and for the flags of a threshold.

    resamples: sets of N texts drawn with replacement, always the same ones; 0 gives no intervals. Of texts that are
    all safe or all unsafe, only the metrics that need one class are given.
    """
    from sklearn.metrics import average_precision_score

    both = 0 < truth.sum() < truth.size
    flags = argmax, scores >= threshold
    areas: list[Floats] = []
    sampled: tuple[list[dict[str, Floats]], ...] = ([], [])
    for weights in _drawn(truth.size, resamples):
        areas += [average_precision(truth, scores, weights)] if both else []
        for samples, flagged in zip(sampled, flags, strict=True):
            samples.append(rates(truth, flagged, weights))
    first, second = map(_flagging, (truth, truth), flags, sampled)
    return Metrics(
        texts=int(truth.size),
        unsafe=int(truth.sum()),
        au_prc=_estimate(average_precision_score(truth, scores), areas) if both else Estimate(None),
        argmax=first,
        threshold=second,
    )


def _flagging(truth: Bools, flagged: Bools, sampled: list[dict[str, Floats]]) -> Flagging:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    nan = float("nan")
    precision, recall, f1, _ = precision_recall_fscore_support(truth, flagged, average="binary", zero_division=nan)
    passed, alarms, *_ = confusion_matrix(truth, flagged, labels=[False, True]).ravel()
    fpr = alarms / (alarms + passed) if alarms + passed else nan
    if truth.all():  # every flag is right then, whatever the guard does
        precision = f1 = nan
    if not truth.any():
        precision = recall = f1 = nan
    values = {"f1": f1, "precision": precision, "recall": recall, "fpr": fpr}
    return Flagging(**{name: _estimate(value, [sample[name] for sample in sampled]) for name, value in values.items()})


def rates(truth: Bools, flagged: Bools, weights: Floats) -> dict[str, Floats]:
    """f1, precision, recall and fpr, each [R], for weights of the texts [R, N]; NaN where one is undefined."""
    hits, misses, alarms, passed = (
        weights @ counted for counted in (truth & flagged, truth & ~flagged, ~truth & flagged, ~truth & ~flagged)
    )
    with np.errstate(invalid="ignore"):
        return {
            "f1": 2 * hits / (2 * hits + misses + alarms),
            "precision": hits / (hits + alarms),
            "recall": hits / (hits + misses),
            "fpr": alarms / (alarms + passed),
        }


def average_precision(truth: Bools, scores: Floats, weights: Floats) -> Floats:
    """Average precision [R] for weights of the texts [R, N]; texts of one score are flagged together."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.diff(scores[order], append=np.inf))  # of each score
    hits = np.cumsum(weights[:, order] * truth[order], axis=1)[:, last]
    flagged = np.cumsum(weights[:, order], axis=1)[:, last]
    with np.errstate(invalid="ignore"):
        precision = np.where(flagged > 0, hits / flagged, 0)
        areas: Floats = (np.diff(hits, axis=1, prepend=0) * precision).sum(axis=1) / hits[:, -1]
    return areas


def _drawn(size: int, resamples: int) -> Iterator[Floats]:
    """How often each text is drawn, [R, N], in parts that fit into memory."""
    generator = np.random.default_rng(0)
    rows = max(1, _CHUNK // size)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = [np.bincount(generator.integers(size, size=size), minlength=size) for _ in range(count)]
        yield np.array(drawn, np.float64)


def _estimate(value: float, sampled: list[Floats]) -> Estimate:
    """Resamples in which the metric is undefined are left out."""
    if np.isnan(value):
        return Estimate(None)
    values = np.concatenate(sampled) if sampled else np.empty(0)
    defined = values[~np.isnan(values)]
    if not defined.size:
        return Estimate(float(value))
    low, high = np.percentile(defined, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))
