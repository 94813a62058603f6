"""Answer styles of the chat API: NAME answers in the guard's words, NAME:STYLE in those of the style."""

from collections.abc import Callable

from ..format.manifest import Manifest
from ..guard import Guard
from ..verdict import Verdict
from .errors import NotFound
from .named import named

Style = Callable[[Guard, Verdict], str]


def own(guard: Guard, verdict: Verdict) -> str:
    """The answer as the checkpoint writes it."""
    return guard.answer_text(verdict)


def safe_unsafe(manifest: Manifest, verdict: Verdict) -> str:
    """`safe`, or `unsafe` and a line of categories, as Llama Guard writes them.

    A category is the guard's own code where the code is a label by itself (S2), else words: the S4 in another guard's
    UNSAFE-S4 is not Llama Guard's.
    """
    if verdict.safe:
        return "safe"
    labels = [label for label in named(manifest, verdict) if label.category]
    words = [label.name if label.severity == "safe" else label.category or "" for label in labels]
    line = ",".join(dict.fromkeys(" ".join(word.split()) for word in words))
    return f"unsafe\n{line}" if line else "unsafe"


STYLES: dict[str, Style] = {"safe-unsafe": lambda guard, verdict: safe_unsafe(guard.manifest, verdict)}


def style_of(model: object) -> tuple[object, str, Style]:
    """The guard's name, the suffix that names a style (or ""), and the style. Raises NotFound."""
    name, colon, style = model.partition(":") if isinstance(model, str) else (model, "", "")
    if not colon:
        return model, "", own
    if style not in STYLES:
        known = ", ".join(f"NAME:{name}" for name in STYLES)
        raise NotFound(f"there is no such answer style; expected a guard's NAME alone, or one of: {known}")
    return name, f":{style}", STYLES[style]
