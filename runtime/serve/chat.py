"""POST /v1/chat/completions: the guard's answer as text, for clients that expect a guard behind OpenAI's API."""

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

    What else a client sends along (other turns, temperature, max_tokens, ...) changes nothing, and is listed: the
    answer is the argmax. usage counts what the guard writes in its own words, whatever the style.
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
    wrote = len(answer_ids(guard.manifest, verdict))
    usage = {"prompt_tokens": prompt, "completion_tokens": wrote, "total_tokens": prompt + wrote}
    extra = {"guardpass": verdict.to_json() | {"ignored": left.ignored()}}
    if stream:
        return Reply(_events(head, content, extra), media="text/event-stream")
    message = {"role": "assistant", "content": content, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = {"object": "chat.completion", "choices": [choice], "usage": usage}
    return Reply(head | body | extra)


def _events(head: dict[str, Any], content: str, extra: dict[str, Any]) -> bytes:
    """The answer as server-sent events: it is there at once, so one has all of it; `extra` goes with the last."""
    said: dict[str, Any] = {"index": 0, "delta": {"role": "assistant", "content": content}, "finish_reason": None}
    ended: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": "stop"}
    chunks = [head | {"object": "chat.completion.chunk", "choices": [choice]} for choice in (said, ended)]
    chunks[-1] |= extra
    return "".join(f"data: {line}\n\n" for line in [*map(json.dumps, chunks), "[DONE]"]).encode()
