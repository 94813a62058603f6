"""Turns a failure into an exception or into an explicit UNDECIDED verdict."""

from typing import Literal, get_args

from .errors import BadScores, BadText, GuardpassError, InputError
from .format.manifest import Mode
from .verdict import Failure, Milliseconds, Tokens, Verdict

OnError = Literal["raise", "block", "allow"]
LABEL = "UNDECIDED"


def check_on_error(on_error: str) -> None:
    """Raises InputError unless the value is an OnError."""
    if on_error not in get_args(OnError):
        raise InputError(f"on_error is {on_error!r}, expected one of: {', '.join(get_args(OnError))}")


def undecided(error: GuardpassError, on_error: OnError, mode: Mode) -> Verdict:
    """The verdict of a request that failed; raises `error` where the caller has to handle it.

    "raise" raises every error. "block" returns an unsafe verdict, also for a text that cannot be judged. "allow"
    returns a safe verdict where the service failed, never where the text may have caused the failure. Invalid options
    always raise.
    """
    by_text = isinstance(error, BadText | BadScores)  # the text may have caused it
    if on_error == "raise" or (by_text and on_error == "allow") or (isinstance(error, InputError) and not by_text):
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
