"""guardpass.export: from a Hugging Face checkpoint to a guard."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from guardpass.errors import MissingDependency

from .families import FAMILIES
from .families.schema import Answer, Family, Message, Policy, Prompt, Question
from .families.toml_file import read_family

if TYPE_CHECKING:
    from .adopt import adopt_gguf
    from .export import export_guard

__all__ = [
    "FAMILIES",
    "Answer",
    "Family",
    "Message",
    "Policy",
    "Prompt",
    "Question",
    "adopt_gguf",
    "export_guard",
    "read_family",
]


def __getattr__(name: str) -> Any:
    """Imports export's main paths on first use, so that other commands neither need nor wait for onnx."""
    if name not in ("adopt_gguf", "export_guard"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    missing = [name for name in ("gguf", "jinja2", "ml_dtypes", "onnx", "safetensors") if not find_spec(name)]
    if missing:
        raise MissingDependency(f"exporting needs {', '.join(missing)}; install guardpass[export]")
    from .adopt import adopt_gguf
    from .export import export_guard

    return {"adopt_gguf": adopt_gguf, "export_guard": export_guard}[name]
