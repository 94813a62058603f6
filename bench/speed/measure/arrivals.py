"""Arrivals of the scenario server: a Poisson process, the same for a seed wherever it is drawn."""

import math

import numpy as np

from guardpass.errors import InputError

from ..report.statistics import Floats


def arrivals(rate: float, count: int, seed: int) -> Floats:
    """When to send each request, [count], in seconds from the start, at `rate` a second in the mean.

    Another rate with the same seed stretches the same trace. Raises InputError.
    """
    if not (math.isfinite(rate) and rate > 0 and count >= 1 and seed >= 0):
        raise InputError(
            f"found a rate of {rate}, {count} requests and seed {seed}, expected a rate above 0, at least one request "
            "and a seed from 0 on"
        )
    # By the inverse of the distribution: numpy may change how `exponential` draws, PCG64's uniform numbers it keeps.
    uniform = np.random.Generator(np.random.PCG64(seed)).random(count)
    times: Floats = np.cumsum(-np.log1p(-uniform)) / rate
    return times
