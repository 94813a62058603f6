"""guardpass: the verdict of a guard model in one prefill pass."""

import os

# Set before ONNX Runtime is imported: from 1.29 on it sends telemetry from a thread that does not survive a fork.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from .errors import (
    BadScores,
    BadText,
    Cancelled,
    CheckpointError,
    Closed,
    DeadlineExceeded,
    EngineError,
    GateError,
    GuardError,
    GuardpassError,
    InputError,
    MissingDependency,
    Overloaded,
    TemplateError,
    TextTooLong,
    Unserved,
    Unsupported,
)
from .format.manifest import Device, Label, Mode
from .guard import Guard
from .on_error import OnError
from .panel import Order, Panel
from .panel_policy import PanelPolicy, PanelVerdict
from .request import CheckOptions, Normalize, SubmitOptions
from .scheduling.queue import Bounds
from .stream import Session
from .verdict import Failure, Field, Milliseconds, Tokens, Verdict
from .windows import LongText

__version__ = "0.1.0"
__all__ = [
    "BadScores",
    "BadText",
    "Bounds",
    "Cancelled",
    "CheckOptions",
    "CheckpointError",
    "Closed",
    "DeadlineExceeded",
    "Device",
    "EngineError",
    "Failure",
    "Field",
    "GateError",
    "Guard",
    "GuardError",
    "GuardpassError",
    "InputError",
    "Label",
    "LongText",
    "Milliseconds",
    "MissingDependency",
    "Mode",
    "Normalize",
    "OnError",
    "Order",
    "Overloaded",
    "Panel",
    "PanelPolicy",
    "PanelVerdict",
    "Session",
    "SubmitOptions",
    "TemplateError",
    "TextTooLong",
    "Tokens",
    "Unserved",
    "Unsupported",
    "Verdict",
]
