"""One hierarchy of errors; the exit code of the command line is the type's."""

from typing import ClassVar


class GuardpassError(Exception):
    """Base of everything guardpass raises on purpose. `exit_code` is what the command line ends with."""

    exit_code: ClassVar[int] = 1


class InputError(GuardpassError):
    """What the caller passed cannot be judged: not text, a mode the guard lacks, a wrong option."""

    exit_code = 2


class TextTooLong(InputError):
    """The text does not fit, and the caller's policy (or the cap on windows) forbids to cut it."""


class MissingDependency(InputError):
    """An optional package is not installed; the message names the extra that brings it."""


class GuardError(GuardpassError):
    """A guard directory is missing, corrupt, altered, or written by another schema version."""

    exit_code = 3


class CheckpointError(GuardpassError):
    """A checkpoint cannot be exported: absent or corrupt files, an unknown shape, values that are not finite."""

    exit_code = 3


class TemplateError(CheckpointError):
    """A chat template cannot be turned exactly into prefix, span and tree."""


class GateError(CheckpointError):
    """A quantized guard judges otherwise than its checkpoint more often than allowed."""


class EngineError(GuardpassError):
    """The engine failed, or gave scores that are not finite. Never to be read as 'safe'."""

    exit_code = 4
