"""POST /v1/chat/completions: the guard's answer as text, for clients that call a guard by OpenAI's API."""

import json
import time
from typing import Any

from ..answer_text import answer_ids
from ..errors import InputError
from .call import Call, Reply
from .fields import LACKS, optional, without
from .messages import judged_messages
from .styles import style_of


async def chat(call: Call) -> Reply:
    """Judge the last turn: a user's message, an assistant's reply to the last one, or the results of tools.

    The answer is the argmax. All else in the body (other turns, temperature, max_tokens, ...) has no effect, and the
    answer lists it. usage counts the tokens of the guard's own answer, whatever the style.
    """
    model, suffix, style = style_of(call.body.get("model"))
    stream = optional(call.body, "stream", bool, False)
    without(call.body, ("guard", "panel", "policies", "threshold", "strict", "alpha", "normalize", "response"), LACKS)
    item, left = judged_messages(call.body.get("messages"))
    if not call.pass_over(left):
        raise InputError(left.why())
    left.rest(call.body, ("model", "messages", "stream"))
    name, guard, (verdict,) = await call.judge(model, [item], on_error="raise")
    content = style(guard, verdict)
    prompt = verdict.tokens.prefix + verdict.tokens.run
    head = {"id": f"chatcmpl-{call.id}", "created": int(time.time()), "model": name + suffix}
    written = len(answer_ids(guard.manifest, verdict))
    usage = {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
    extra = {"guardpass": verdict.to_json() | {"ignored": left.ignored()}}
    if stream:
        return Reply(_events(head, content, extra), media="text/event-stream")
    message = {"role": "assistant", "content": content, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = {"object": "chat.completion", "choices": [choice], "usage": usage}
    return Reply(head | body | extra)


def _events(head: dict[str, Any], content: str, extra: dict[str, Any]) -> bytes:
    """The answer as server-sent events: the first has the whole answer, the last has `extra`."""
    first: dict[str, Any] = {"index": 0, "delta": {"role": "assistant", "content": content}, "finish_reason": None}
    last: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": "stop"}
    chunks = [head | {"object": "chat.completion.chunk", "choices": [choice]} for choice in (first, last)]
    chunks[-1] |= extra
    return "".join(f"data: {line}\n\n" for line in [*map(json.dumps, chunks), "[DONE]"]).encode()
