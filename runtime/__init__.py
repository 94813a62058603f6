"""guardpass: the verdict of a guard model in one prefill pass."""

import os

# Before ONNX Runtime is imported, which from 1.29 on else reports to its makers, from a thread that no fork survives.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from .errors import (
    BadScores,
    BadText,
    Cancelled,
    CheckpointError,
    Closed,
    DeadlineExceeded,
    EngineError,
    GuardError,
    GuardpassError,
    InputError,
    MissingDependency,
    Overloaded,
    TemplateError,
    TextTooLong,
    Unsupported,
)
from .guard import Guard
from .panel import Panel
from .panel_policy import PanelVerdict
from .session import Session
from .verdict import Failure, Field, Milliseconds, Tokens, Verdict
from .waiting import Bounds

__version__ = "0.1.0"
__all__ = [
    "BadScores",
    "BadText",
    "Bounds",
    "Cancelled",
    "CheckpointError",
    "Closed",
    "DeadlineExceeded",
    "EngineError",
    "Failure",
    "Field",
    "Guard",
    "GuardError",
    "GuardpassError",
    "InputError",
    "Milliseconds",
    "MissingDependency",
    "Overloaded",
    "Panel",
    "PanelVerdict",
    "Session",
    "TemplateError",
    "TextTooLong",
    "Tokens",
    "Unsupported",
    "Verdict",
]
