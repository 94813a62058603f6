"""How fast an engine has been lately, to foretell a wait."""

_TOKENS = 64.0  # in these the part by tokens is counted; it only sets how errors of short and long turns are weighed
_NEWEST = 0.01  # weight of the newest turn in the fit of the two parts,
_LATELY = 0.2  # and in the mean and deviation of turns beside that fit
_DEVIATIONS = 3.0
_SWING = 4.0  # a turn that took longer than foretold by more than this factor counts as this
_PULL = 1e-3  # weight of the parts as they were, against the turns that are remembered
_FADE = 0.999  # a turn: what no turn confirms is believed a little less each time


class LatencyEstimator:
    """Seconds of a turn: a fixed part for each pass and a part for each token, by how fast both were lately.

    The parts are fitted by least squares of relative errors, both 0 or more, over the last hundred turns or so: short
    texts alone cannot tell the parts from each other, and the long ones that can may be few. What none of those turns
    tells stays as it was, and fades: a text that was thought too long is tried again some day. Beside the fit stand
    mean and mean deviation of the last few turns, as the speed of shared machines drifts.

    What is foretold is on the slow side by some deviations, as TCP's retransmission timer is (RFC 6298): a request that
    was let in has to be answered in time.
    """

    def __init__(self) -> None:
        self._parts: tuple[float, float] | None = None  # seconds a pass, and for _TOKENS tokens
        # Of weighted products: passes^2, passes tokens, tokens^2, passes seconds, tokens seconds.
        self._sums: tuple[float, ...] = (0.0,) * 5
        self._mean, self._deviation = 1.0, 0.5  # of turns, in units of what the fit says

    def update(self, passes: int, tokens: int, seconds: float, *, finished: bool = True) -> None:
        """Take a turn into account. finished: else it ended early, and `seconds` is the least that it takes."""
        if not finished and (self._parts is None or seconds <= self._mean * self._fit(passes, tokens)):
            return
        units = tokens / _TOKENS
        size = passes + units
        if self._parts is None:
            self._parts = seconds / size, seconds / size  # the turn tells their sum alone
        else:
            fit = max(self._fit(passes, tokens), 1e-9)
            times = min(seconds / fit, _SWING * self._mean)
            seconds = times * fit
            off = abs(times / self._mean - 1)
            self._deviation += _LATELY * (off - self._deviation)
            self._mean = max(self._mean + _LATELY * (times - self._mean), 1e-6)
        p, t, s = passes / size, units / size, seconds / size
        found = (p * p, p * t, t * t, p * s, t * s)
        self._sums = tuple(old + _NEWEST * (new - old) for old, new in zip(self._sums, found, strict=True))
        self._parts = _fitted(self._sums, (self._parts[0] * _FADE, self._parts[1] * _FADE))

    def estimate(self, passes: int, tokens: int) -> float:
        """What so many passes, of so many tokens in all, may take; 0 while nothing is known."""
        return self._fit(passes, tokens) * self._mean * (1 + _DEVIATIONS * self._deviation)

    def _fit(self, passes: int, tokens: int) -> float:
        fixed, each = self._parts or (0.0, 0.0)
        return fixed * passes + each * tokens / _TOKENS


def _fitted(sums: tuple[float, ...], before: tuple[float, float]) -> tuple[float, float]:
    """The two parts, 0 or more, of the least squared error; those `before` count as turns of little weight."""
    pp, pt, tt, ps, ts = sums
    pp, tt, ps, ts = pp + _PULL, tt + _PULL, ps + _PULL * before[0], ts + _PULL * before[1]
    determinant = pp * tt - pt * pt  # above 0, as _PULL is
    fixed, each = (ps * tt - ts * pt) / determinant, (ts * pp - ps * pt) / determinant
    if fixed < 0:
        return 0.0, ts / tt
    if each < 0:
        return ps / pp, 0.0
    return fixed, each
