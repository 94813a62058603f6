"""guardpass: the verdict of a guard model in one prefill pass."""

from .errors import (
    CheckpointError,
    EngineError,
    GuardError,
    GuardpassError,
    InputError,
    MissingDependency,
    TemplateError,
    TextTooLong,
)
from .guard import Guard
from .verdict import Field, Milliseconds, Tokens, Verdict

__version__ = "0.1.0"
__all__ = [
    "CheckpointError",
    "EngineError",
    "Field",
    "Guard",
    "GuardError",
    "GuardpassError",
    "InputError",
    "Milliseconds",
    "MissingDependency",
    "TemplateError",
    "TextTooLong",
    "Tokens",
    "Verdict",
]
