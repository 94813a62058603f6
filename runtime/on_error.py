"""What becomes of a failure: an error, or a verdict that says so."""

from typing import Literal, get_args

from .errors import BadScores, BadText, GuardpassError, InputError
from .format.manifest import Mode
from .verdict import Failure, Milliseconds, Tokens, Verdict

OnError = Literal["raise", "block", "allow"]
LABEL = "UNDECIDED"


def check_on_error(on_error: str) -> None:
    """Raises InputError for what is no OnError."""
    if on_error not in get_args(OnError):
        raise InputError(f"on_error is {on_error!r}, expected one of: {', '.join(get_args(OnError))}")


def undecided(error: GuardpassError, on_error: OnError, mode: Mode) -> Verdict:
    """The verdict of a request that could not be judged; raises `error` where it is the caller's to handle.

    "raise" raises all. "block" gives an unsafe verdict, also of a text that cannot be judged. "allow" gives a safe one
    where the service failed, never where it may be the text's doing. Wrong options always raise.
    """
    texts = isinstance(error, BadText | BadScores)
    if on_error == "raise" or (texts and on_error == "allow") or (isinstance(error, InputError) and not texts):
        raise error
    return Verdict(
        safe=on_error == "allow",
        label=LABEL,
        field="",
        categories=(),
        score=0.0 if on_error == "allow" else 1.0,
        margin=0.0,
        fields={},
        openai_scores={},
        mode=mode,
        windows=0,
        truncated=False,
        normalized=False,
        suspicious_literals=(),
        tokens=Tokens(0, 0),
        ms=Milliseconds(0.0, 0.0, 0.0),
        failure=Failure(error.kind, str(error), on_error),
    )
