"""Statistics that N samples support: quantiles with distribution-free 95 % intervals, paired ratios, shares.

An interval of a quantile runs from one order statistic to another, their ranks from the binomial distribution, equal
tails (Conover, Practical Nonparametric Statistics, 3rd ed., 3.2). It holds for independent samples of whatever
distribution; under load requests queue behind one another, and it is too narrow. A percentile is given where its
interval ends within the samples: p95 from N = 72, p99 from N = 368 on; the interval of the median from N = 6 on.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from guardpass.errors import InputError

from .schema import Summary

Floats = npt.NDArray[np.float64]
Interval = tuple[float, ...]  # low, high
LEVEL = 0.95


def summary(samples_ms: Sequence[float]) -> Summary:
    """Of samples [N] in ms. Raises InputError where there is none, or one is not finite."""
    samples = _ordered(samples_ms)
    p95, p99 = (quantile_interval(samples_ms, q) for q in (0.95, 0.99))
    return Summary(
        n=samples.size,
        mean=float(samples.mean()),
        stddev=float(samples.std(ddof=1)) if samples.size > 1 else None,
        least=float(samples[0]),
        median=float(np.median(samples)),
        median_interval=quantile_interval(samples_ms, 0.5),
        p95=float(np.quantile(samples, 0.95)) if p95 else None,
        p95_interval=p95,
        p99=float(np.quantile(samples, 0.99)) if p99 else None,
    )


def quantile_interval(samples: Sequence[float], q: float, level: float = LEVEL) -> Interval | None:
    """Of the quantile q of what samples [N] were drawn from; None where N is too small. Raises InputError."""
    ordered = _ordered(samples)
    low, high = _ranks(ordered.size, q, level)
    return (float(ordered[low - 1]), float(ordered[high - 1])) if low >= 1 and high <= ordered.size else None


def paired_ratio(times: Sequence[float], reference: Sequence[float]) -> tuple[float, Interval | None]:
    """Median over turns of time to reference time [N], and its interval: what slows both in a turn cancels.

    Raises InputError where the turns are not as many, or a time is not positive.
    """
    if len(times) != len(reference):
        raise InputError(f"found {len(times)} and {len(reference)} turns, expected as many; time both in turn")
    both = _ordered(times), _ordered(reference)
    if min(samples[0] for samples in both) <= 0:
        raise InputError("found a time that is not positive, expected ms; measure again")
    ratios: list[float] = np.divide(times, reference).tolist()
    return float(np.median(ratios)), quantile_interval(ratios, 0.5)


def ratio_interval(value: float, ends: Interval | None, beside: float, others: Interval | None) -> Interval | None:
    """95 %, of the ratio of two values that were measured apart, from the 95 % intervals of both; None without them.

    Their distances are squared and added, on a logarithmic scale (Zou and Donner, Statistics in Medicine 27, 2008).
    """
    if ends is None or others is None or min(ends[0], others[0]) <= 0:
        return None
    (low, high), (least, most) = ends, others
    middle = math.log(value / beside)
    down = math.hypot(math.log(value / low), math.log(most / beside))
    up = math.hypot(math.log(high / value), math.log(beside / least))
    return math.exp(middle - down), math.exp(middle + up)


def share_interval(share: float, n: int) -> Interval:
    """Wilson's 95 % interval of a share of n trials (Wilson 1927; Agresti and Coull 1998). Raises InputError."""
    if n < 1 or not 0 <= share <= 1:
        raise InputError(f"found a share of {share} of {n}, expected one from 0 to 1 of at least 1")
    square = 1.959963984540054**2 / n  # of the normal distribution's 97.5 %
    middle = (share + square / 2) / (1 + square)
    half = math.sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


@lru_cache
def _ranks(n: int, q: float, level: float) -> tuple[int, int]:
    """Ranks from 1 of the interval's ends; 0 or n + 1 where it ends beyond the samples."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])  # of factorials
    k = np.arange(n + 1)
    chances = np.exp(logs[n] - logs[k] - logs[n - k] + k * math.log(q) + (n - k) * math.log1p(-q))
    below = np.cumsum(chances)  # [k]: that at most k samples are below the quantile
    tail = (1 - level) / 2
    low, high = np.searchsorted(below, tail, side="right"), np.searchsorted(below, 1 - tail) + 1
    return int(low), int(high)


def _ordered(samples: Sequence[float]) -> Floats:
    ordered = np.sort(np.asarray(samples, np.float64))
    if not ordered.size or not np.isfinite(ordered).all():
        raise InputError(f"found {ordered.size} samples, expected at least one, and all finite; measure again")
    return ordered
