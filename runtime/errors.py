"""One hierarchy of errors. Each type knows its exit code, its HTTP status, and its name in metrics and replies."""

from typing import Any, ClassVar


class GuardpassError(Exception):
    """Base of everything guardpass raises on purpose.

    exit_code: what the command line ends with. status: what `guardpass serve` answers. kind: the error's name in
    replies, logs and metrics. None of them ever means "safe".
    """

    exit_code: ClassVar[int] = 1
    status: ClassVar[int] = 500
    kind: ClassVar[str] = "internal"

    def __reduce__(self) -> tuple[Any, ...]:
        # By default an error is copied by calling its type with its message alone, whatever else the type asks for.
        return _copied, (type(self), self.args, self.__dict__)


def _copied(kind: type[GuardpassError], args: tuple[Any, ...], attributes: dict[str, Any]) -> GuardpassError:
    error = kind.__new__(kind, *args)  # which keeps args
    error.__dict__.update(attributes)
    return error


class InputError(GuardpassError):
    """What the caller passed cannot be judged: not text, a mode the guard lacks, a wrong option."""

    exit_code = 2
    status = 400
    kind = "bad_input"


class BadText(InputError):
    """It is the text itself that cannot be judged."""

    status = 422
    kind = "bad_text"


class TextTooLong(BadText):
    """The text does not fit, and the caller's policy (or the cap on windows) forbids to cut it."""

    status = 413
    kind = "text_too_long"


class Unsupported(InputError):
    """The guard's engine cannot do this."""

    status = 501
    kind = "unsupported"


class MissingDependency(InputError):
    """An optional package is not installed; the message names the extra that brings it."""

    status = 500
    kind = "missing_dependency"


class GuardError(GuardpassError):
    """A guard directory is missing, corrupt, altered, or written by another schema version."""

    exit_code = 3
    kind = "bad_guard"


class CheckpointError(GuardpassError):
    """A checkpoint cannot be exported: absent or corrupt files, an unknown shape, values that are not finite."""

    exit_code = 3
    kind = "bad_checkpoint"


class TemplateError(CheckpointError):
    """A chat template cannot be turned exactly into prefix, span and tree."""


class GateError(CheckpointError):
    """A quantized guard judges otherwise than its checkpoint more often than allowed."""


class EngineError(GuardpassError):
    """The engine failed. Never to be read as 'safe'."""

    exit_code = 4
    kind = "engine"


class BadScores(EngineError):
    """The engine gave scores that are not finite, which a text may bring about."""

    kind = "bad_scores"


class Unserved(GuardpassError):
    """The text might have been judged, but not here and now."""

    exit_code = 5
    status = 503
    kind = "unserved"


class Overloaded(Unserved):
    """Too much is ahead, or the request alone is too long for its deadline. `retry_after`: seconds until it may fit."""

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
    """The guard is closed, or closing."""

    kind = "closed"


class Cancelled(Unserved):
    """The caller gave the request up while its pass ran."""

    status = 499
    kind = "cancelled"


def as_guardpass_error(error: Exception) -> GuardpassError:
    """The error as one of ours, without its message, which may quote the text."""
    if isinstance(error, GuardpassError):
        return error
    failure = EngineError(f"the check failed unexpectedly, with {type(error).__name__}")
    failure.__cause__ = error
    return failure
