"""How fast an engine has been lately, to foretell a wait."""

_WEIGHT = 0.2  # of the newest pass


class Pace:
    """Seconds a token, an exponential mean over what was run; None until something was."""

    def __init__(self) -> None:
        self._seconds: float | None = None

    def ran(self, tokens: int, seconds: float) -> None:
        """Take a finished request into account."""
        found = seconds / tokens
        self._seconds = found if self._seconds is None else self._seconds + _WEIGHT * (found - self._seconds)

    def seconds(self, tokens: int) -> float:
        """What so many tokens should take; 0 while nothing is known."""
        return tokens * (self._seconds or 0.0)
