"""POST /v1/chat/completions: the guard's answer as text, for clients that expect a guard behind OpenAI's API."""

import json
import time
from typing import Any

from ..answer_text import answer_ids
from ..errors import InputError
from .call import Call, Reply
from .fields import content_of, optional
from .styles import style_of


async def chat(call: Call) -> Reply:
    """Judge the last user message, or the assistant's reply to it where one follows.

    What else a client sends along (temperature, max_tokens, ...) changes nothing: the answer is the argmax.
    usage counts what the guard writes in its own words, whatever the style.
    """
    model, suffix, style = style_of(call.body.get("model"))
    stream = optional(call.body, "stream", bool, False)
    item = judged_messages(call.body.get("messages"))
    name, guard, (verdict,) = await call.judge(model, [item], on_error="raise")
    content = style(guard, verdict)
    prompt = verdict.tokens.prefix + verdict.tokens.run
    head = {"id": f"chatcmpl-{call.id}", "created": int(time.time()), "model": name + suffix}
    wrote = len(answer_ids(guard.manifest, verdict))
    usage = {"prompt_tokens": prompt, "completion_tokens": wrote, "total_tokens": prompt + wrote}
    if stream:
        return Reply(_events(head, content), media="text/event-stream")
    message = {"role": "assistant", "content": content, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = {"object": "chat.completion", "choices": [choice], "usage": usage, "guardpass": verdict.to_json()}
    return Reply(head | body)


def judged_messages(messages: object) -> tuple[str, str | None]:
    """The last user message, and the assistant's after it."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise InputError("messages is no list of objects, expected OpenAI's messages")
    users = [index for index, message in enumerate(messages) if message.get("role") == "user"]
    if not users:
        raise InputError("no message has the role user, expected one to judge")
    replies = [message for message in messages[users[-1] :] if message.get("role") == "assistant"]
    text = content_of(messages[users[-1]].get("content"), "content")
    return text, content_of(replies[-1].get("content"), "content") if replies else None


def _events(head: dict[str, Any], content: str) -> bytes:
    """The answer as server-sent events: it is there at once, so one of them has it all."""
    said: dict[str, Any] = {"index": 0, "delta": {"role": "assistant", "content": content}, "finish_reason": None}
    ended: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": "stop"}
    chunks = [head | {"object": "chat.completion.chunk", "choices": [choice]} for choice in (said, ended)]
    return "".join(f"data: {line}\n\n" for line in [*map(json.dumps, chunks), "[DONE]"]).encode()
