"""How fast an engine has been lately, to foretell a wait."""

_WEIGHT = 0.2  # of the newest pass
_DEVIATIONS = 3.0


class Pace:
    """Seconds a token: mean and mean deviation of what was run, the newest counting most.

    What is foretold is on the slow side, as TCP's retransmission timer is (RFC 6298): the speed of shared machines
    drifts, and a request that was let in has to be answered in time.
    """

    def __init__(self) -> None:
        self._mean: float | None = None
        self._deviation = 0.0

    def ran(self, tokens: int, seconds: float) -> None:
        """Take a finished request into account."""
        found = seconds / tokens
        if self._mean is None:
            self._mean, self._deviation = found, found / 2
            return
        self._deviation += _WEIGHT * (abs(found - self._mean) - self._deviation)
        self._mean += _WEIGHT * (found - self._mean)

    def seconds(self, tokens: int) -> float:
        """What so many tokens may take; 0 while nothing is known."""
        return tokens * (self._mean + _DEVIATIONS * self._deviation) if self._mean is not None else 0.0
