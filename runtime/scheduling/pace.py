"""Estimates queueing delay from recent throughput."""

_TOKENS = 64.0  # unit of the token cost; it only sets the relative weight of errors of short and long turns
_NEWEST = 0.01  # weight of the newest turn in the fit of the two costs
_LATELY = 0.2  # weight of the newest turn in the mean and the deviation of the residual
_DEVIATIONS = 3.0  # mean deviations that an estimate adds
_SWING = 4.0  # cap on a turn's ratio of actual to estimated time, over the mean ratio
_PULL = 1e-3  # weight of the previous costs in the fit
_FADE = 0.999  # decay of the previous costs at each turn


class LatencyEstimator:
    """Estimates the seconds of a turn: a cost for each pass and a cost for each token, from recent turns.

    The two costs, both 0 or more, are fitted by least squares of relative errors over about the last hundred turns.
    Short texts alone cannot separate the costs, and long texts may be rare. So a cost that no recent turn determines
    keeps its value and decays, and a text that seemed too long is admitted again later. The mean and the mean deviation
    of the last few turns scale the fit, as the speed of shared machines drifts.

    An estimate adds some deviations to the mean, like TCP's retransmission timer (RFC 6298), because an admitted
    request must meet its deadline.
    """

    def __init__(self) -> None:
        self._costs: tuple[float, float] | None = None  # seconds for a pass, and for _TOKENS tokens
        # Moving averages of products: passes^2, passes tokens, tokens^2, passes seconds, tokens seconds.
        self._sums: tuple[float, ...] = (0.0,) * 5
        # The ratio of actual time to the fit.
        self._mean = 1.0
        self._deviation = 0.5

    def update(self, passes: int, tokens: int, seconds: float, *, finished: bool = True) -> None:
        """Learn from a turn. finished: False if it ended early, so that `seconds` is a lower bound."""
        if not finished and (self._costs is None or seconds <= self._mean * self._fit(passes, tokens)):
            return
        units = tokens / _TOKENS
        size = passes + units
        if self._costs is None:
            self._costs = seconds / size, seconds / size  # one turn determines only their sum
        else:
            fit = max(self._fit(passes, tokens), 1e-9)
            ratio = min(seconds / fit, _SWING * self._mean)
            seconds = ratio * fit
            error = abs(ratio / self._mean - 1)
            self._deviation += _LATELY * (error - self._deviation)
            self._mean = max(self._mean + _LATELY * (ratio - self._mean), 1e-6)
        p, t, s = passes / size, units / size, seconds / size
        products = (p * p, p * t, t * t, p * s, t * s)
        self._sums = tuple(old + _NEWEST * (new - old) for old, new in zip(self._sums, products, strict=True))
        self._costs = _fitted(self._sums, (self._costs[0] * _FADE, self._costs[1] * _FADE))

    def estimate(self, passes: int, tokens: int) -> float:
        """The estimated seconds of a turn with so many passes and tokens; 0 before the first turn."""
        return self._fit(passes, tokens) * self._mean * (1 + _DEVIATIONS * self._deviation)

    def _fit(self, passes: int, tokens: int) -> float:
        per_pass, per_unit = self._costs or (0.0, 0.0)
        return per_pass * passes + per_unit * tokens / _TOKENS


def _fitted(sums: tuple[float, ...], before: tuple[float, float]) -> tuple[float, float]:
    """The two costs, 0 or more, with the least squared error; the costs `before` have little weight."""
    pp, pt, tt, ps, ts = sums
    pp, tt, ps, ts = pp + _PULL, tt + _PULL, ps + _PULL * before[0], ts + _PULL * before[1]
    determinant = pp * tt - pt * pt  # above 0, because _PULL is
    per_pass = (ps * tt - ts * pt) / determinant
    per_unit = (ts * pp - ps * pt) / determinant
    if per_pass < 0:
        return 0.0, ts / tt
    if per_unit < 0:
        return ps / pp, 0.0
    return per_pass, per_unit
