"""POST /v1/moderations, in OpenAI's shape: all 13 categories, and the guard's verdict in one more object."""

from collections.abc import Iterator
from typing import Any

from ..errors import InputError
from ..format.manifest import Manifest
from ..verdict import Verdict
from .call import Call, Reply
from .fields import LACKS, OPTIONS, without
from .left_out import LeftOut
from .messages import content, one_text
from .named import named

# openai-python, src/openai/types/moderation.py
CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)


async def moderations(call: Call) -> Reply:
    """A result for each text of the input."""
    left = LeftOut()
    without(call.body, ("guard", "panel", "response", *OPTIONS), LACKS)
    texts = list(_texts(call.body.get("input"), left))
    if not call.pass_over(left):
        raise InputError(left.why())
    left.rest(call.body, ("model", "input"))
    name, guard, verdicts = await call.judge(call.body.get("model"), [(text, None) for text in texts])
    results = [result(guard.manifest, verdict) for verdict in verdicts]
    for entry in results:
        entry["guardpass"]["ignored"] = left.ignored()
    return Reply({"id": f"modr-{call.id}", "model": name, "results": results})


def result(manifest: Manifest, verdict: Verdict) -> dict[str, Any]:
    """OpenAI's result for one text. A category is true where the guard's answer names it.

    `guardpass` lists the guard's categories that OpenAI does not have.
    """
    labels = named(manifest, verdict)
    openai = {label.openai for label in labels}
    others = [label.category for label in labels if label.category and label.openai not in CATEGORIES]
    if not verdict.safe and not others and openai.isdisjoint(CATEGORIES):
        others = [verdict.label]
    return {
        "flagged": not verdict.safe,
        "categories": {category: category in openai for category in CATEGORIES},
        "category_scores": {category: verdict.openai_scores.get(category, 0.0) for category in CATEGORIES},
        "category_applied_input_types": {category: ["text"] for category in CATEGORIES},
        "guardpass": verdict.to_json() | {"no_openai_category": list(dict.fromkeys(others))},
    }


def _texts(value: object, left: LeftOut) -> Iterator[str]:
    """The texts of an input: a string, strings, or parts of one text."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            yield from value
        else:
            yield one_text(list(content(value, "input", left)), "input", left)
    else:
        raise InputError("input is missing or empty, expected a string, a list of strings, or a list of text parts")
