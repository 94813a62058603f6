"""The hierarchy of errors. Each type has an exit code, an HTTP status, and a kind for metrics and replies."""

from typing import Any, ClassVar


class GuardpassError(Exception):
    """The base of every error that guardpass raises on purpose. None of them means "safe".

    exit_code: exit status of the command line.
    status: HTTP status of `guardpass serve`.
    kind: the error's name in replies, logs and metrics.
    """

    exit_code: ClassVar[int] = 1
    status: ClassVar[int] = 500
    kind: ClassVar[str] = "internal"

    def __reduce__(self) -> tuple[Any, ...]:
        # By default a copy calls the type with the message alone, though a subclass may need more arguments.
        return _copied, (type(self), self.args, self.__dict__)


def _copied(kind: type[GuardpassError], args: tuple[Any, ...], attributes: dict[str, Any]) -> GuardpassError:
    error = kind.__new__(kind, *args)  # __new__ stores args
    error.__dict__.update(attributes)
    return error


class InputError(GuardpassError):
    """An argument cannot be used: not a string, a mode that the guard lacks, an invalid option."""

    exit_code = 2
    status = 400
    kind = "bad_input"


class BadText(InputError):
    """The text itself cannot be judged."""

    status = 422
    kind = "bad_text"


class TextTooLong(BadText):
    """The text is too long for the caller's policy, or for the limit of windows."""

    status = 413
    kind = "text_too_long"


class Unsupported(InputError):
    """The engine of the guard lacks the operation."""

    status = 501
    kind = "unsupported"


class MissingDependency(InputError):
    """An optional package is not installed; the message names the extra that installs it."""

    status = 500
    kind = "missing_dependency"


class GuardError(GuardpassError):
    """A guard directory is missing, corrupt, altered, or written by another schema version."""

    exit_code = 3
    kind = "bad_guard"


class CheckpointError(GuardpassError):
    """A checkpoint cannot be exported: missing or corrupt files, an unknown architecture, non-finite values."""

    exit_code = 3
    kind = "bad_checkpoint"


class TemplateError(CheckpointError):
    """A chat template cannot be converted exactly into prefix, span and tree."""


class GateError(CheckpointError):
    """The verdicts of a quantized guard differ from its checkpoint's more often than allowed."""


class EngineError(GuardpassError):
    """The engine failed, so there is no verdict."""

    exit_code = 4
    kind = "engine"


class BadScores(EngineError):
    """The engine returned scores that are not finite. A text may cause this."""

    kind = "bad_scores"


class Unserved(GuardpassError):
    """The request was valid and was not served."""

    exit_code = 5
    status = 503
    kind = "unserved"


class Overloaded(Unserved):
    """The queue is full, or the request cannot meet its deadline.

    retry_after: estimated seconds until it is worth trying again.
    """

    status = 429
    kind = "overloaded"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(Unserved):
    """The request's deadline passed before its verdict."""

    status = 504
    kind = "deadline"


class Closed(Unserved):
    """The guard is closed or closing."""

    kind = "closed"


class Cancelled(Unserved):
    """The caller cancelled the request while it ran."""

    status = 499
    kind = "cancelled"


def as_guardpass_error(error: Exception) -> GuardpassError:
    """The error itself, or an EngineError without its message, which may quote the text."""
    if isinstance(error, GuardpassError):
        return error
    failure = EngineError(f"the check failed unexpectedly, with {type(error).__name__}")
    failure.__cause__ = error
    return failure
