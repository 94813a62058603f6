"""guardpass.export: from a Hugging Face checkpoint to a guard."""

from importlib.util import find_spec

from guardpass.errors import MissingDependency

_missing = [name for name in ("jinja2", "ml_dtypes", "onnx", "safetensors") if not find_spec(name)]
if _missing:
    raise MissingDependency(f"exporting needs {', '.join(_missing)}; install guardpass[export]")

from .exporter import export_guard  # noqa: E402
from .families import FAMILIES, Answer, Family  # noqa: E402

__all__ = ["FAMILIES", "Answer", "Family", "export_guard"]
