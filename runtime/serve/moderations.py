"""POST /v1/moderations, in OpenAI's shape: all 13 categories, and what the guard itself says in one more object."""

from collections.abc import Iterator
from typing import Any

from ..describe import labels_of
from ..errors import InputError
from ..guard import Guard
from ..verdict import Verdict
from .call import Call, Reply
from .fields import LACKS, OPTIONS, without
from .left_out import LeftOut
from .messages import content, one_text

# openai-python, src/openai/types/moderation.py
CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip


async def moderations(call: Call) -> Reply:
    """A result for each text of the input."""
    left = LeftOut()
    without(call.body, ("guard", "panel", "response", *OPTIONS), LACKS)
    texts = list(_texts(call.body.get("input"), left))
    if not call.pass_over(left):
        raise InputError(left.why())
    left.rest(call.body, ("model", "input"))
    name, guard, verdicts = await call.judge(call.body.get("model"), [(text, None) for text in texts])
    results = [result(guard, verdict) for verdict in verdicts]
    for each in results:
        each["guardpass"]["ignored"] = left.ignored()
    return Reply({"id": f"modr-{call.id}", "model": name, "results": results})


def result(guard: Guard, verdict: Verdict) -> dict[str, Any]:
    """What OpenAI has for one text. A category is true where the guard's answer names it."""
    labels = {field: {label.name: label for label in found} for field, found in labels_of(guard.manifest).items()}
    scores = dict.fromkeys(CATEGORIES, 0.0)
    flagged = dict.fromkeys(CATEGORIES, False)
    for field, found in verdict.fields.items():
        if found is None:
            continue
        shares: dict[str, float] = {}
        for name, share in found.labels.items():
            label = labels[field][name]
            if label.openai in scores and label.severity != "safe":
                shares[label.openai] = shares.get(label.openai, 0.0) + share
                flagged[label.openai] |= name == found.label and not verdict.safe
        for category, share in shares.items():
            scores[category] = max(scores[category], min(share, 1.0))
    return {
        "flagged": not verdict.safe,
        "categories": flagged,
        "category_scores": scores,
        "category_applied_input_types": {category: ["text"] for category in CATEGORIES},
        "guardpass": verdict.to_json(),
    }


def _texts(given: object, left: LeftOut) -> Iterator[str]:
    """A string, strings, or one input in parts."""
    if isinstance(given, str):
        yield given
    elif isinstance(given, list) and given:
        if all(isinstance(each, str) for each in given):
            yield from given
        else:
            yield one_text(list(content(given, "input", left)), "input", left)
    else:
        raise InputError("input is missing or empty, expected a string, a list of strings, or a list of text parts")
