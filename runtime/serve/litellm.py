"""POST /beta/litellm_basic_guardrail_api: LiteLLM's generic guardrail API (docs.litellm.ai, adding_provider)."""

from ..errors import InputError
from .call import Call, Reply
from .chat import judged_messages
from .fields import optional, text_of


async def litellm(call: Call) -> Reply:
    """BLOCKED with the reason, or NONE.

    A reply's texts come without the question, unless `structured_messages` has it: a guard that judges replies then
    judges them as replies to an empty message, one that does not as texts.
    """
    texts = optional(call.body, "texts", list, [])
    if not all(isinstance(text, str) for text in texts):
        raise InputError("texts: expected a list of strings")
    kind = text_of(call.body, "input_type")
    if kind not in ("request", "response"):
        raise InputError("input_type: expected request or response")
    params = optional(call.body, "additional_provider_specific_params", dict, {})
    messages = optional(call.body, "structured_messages", list, [])
    if not all(isinstance(message, dict) for message in messages):
        raise InputError("structured_messages: expected a list of objects")
    if not texts:
        return Reply({"action": "NONE"})
    name, guard = call.host.find(params.get("guard"))
    as_replies = kind == "response" and "response" in guard.manifest.modes
    question = ""
    if as_replies and messages:
        question, _ = judged_messages(messages)
    items = [(question, text) if as_replies else (text, None) for text in texts]
    _, _, verdicts = await call.judge(name, items, threshold=optional(params, "threshold", (int, float)))
    worst = max(verdicts, key=lambda verdict: (not verdict.safe, verdict.score))
    if worst.safe:
        return Reply({"action": "NONE"})
    reason = ", ".join(worst.categories) or worst.label
    return Reply({"action": "BLOCKED", "blocked_reason": f"{name}: {reason} (score {worst.score:.3f})"})
