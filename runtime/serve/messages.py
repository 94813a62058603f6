"""OpenAI's messages: their texts, and the turn that is judged."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

from ..errors import InputError
from .json_text import text_in
from .left_out import LeftOut, quoted

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
# Types of parts (OpenAI's chat and responses, Anthropic's messages), and the key of their text.
_TEXTS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}
_KINDS = {
    "image": "image",
    "image_url": "image",
    "input_image": "image",
    "audio": "audio",
    "input_audio": "audio",
    "video": "video",
    "video_url": "video",
    "file": "file",
    "input_file": "file",
    "document": "file",
}
_CALL_KEYS = ("name", "arguments", "input")
_USED = ("role", "content", "refusal", "tool_calls", "function_call", "tool_call_id", "audio", "images")


def judged_messages(messages: object) -> tuple[tuple[str, str | None], LeftOut]:
    """The last turn, and the content that its verdict leaves out. Raises InputError.

    A user's message is judged as a text, an assistant's as the reply to the user's last message, and results of tools
    as a text. A message's text is its content, its refusal, and its tool calls' names and arguments.
    """
    turns = _checked(messages)
    spoken = [index for index, turn in enumerate(turns) if turn["role"] not in ("system", "developer")]
    users = [index for index in spoken if turns[index]["role"] == "user"]
    role = turns[spoken[-1]]["role"] if spoken else "system"
    judged = spoken[-1:]
    if role in ("tool", "function"):  # one turn has a result of each call
        judged = list(takewhile(lambda index: turns[index]["role"] in ("tool", "function"), reversed(spoken)))[::-1]
    elif not users:
        raise InputError("no message has the role user, expected one to judge")
    elif role == "assistant":
        judged = [users[-1], spoken[-1]]
    left = LeftOut()
    texts = []
    for index, message in enumerate(turns):
        place = f"messages[{index}]"
        if index in judged:
            texts.append(one_text(list(texts_of(message, place, left)), place, left))
        else:
            left.ignore(place)
    return ((texts[0], texts[1]) if role == "assistant" else ("\n".join(texts), None)), left


def one_text(pieces: Sequence[str], place: str, left: LeftOut) -> str:
    """Join pieces of text. Raises InputError if there are none."""
    if not pieces:
        raise InputError(left.why() if left.not_text else f"{place} is missing or empty, expected a text to judge")
    return "\n".join(filter(None, pieces))


def texts_of(message: Mapping[str, Any], place: str, left: LeftOut, also: Sequence[str] = ()) -> Iterator[str]:
    """All texts of a message. also: more keys with content."""
    for key in ("content", "refusal", *also):
        yield from content(message.get(key), f"{place}.{key}", left)
    calls = message.get("tool_calls") or []
    for index, call in enumerate(calls if isinstance(calls, list) else [calls]):
        yield from call_text(call, f"{place}.tool_calls[{index}]", left)
    if message.get("function_call") is not None:
        yield from call_text(message["function_call"], f"{place}.function_call", left)
    for key, kind in (("audio", "audio"), ("images", "image")):
        if message.get(key):
            left.cannot(f"{place}.{key}", kind)
    left.rest(message, (*_USED, *also), place)


def content(value: object, place: str, left: LeftOut) -> Iterator[str]:
    """The texts of a content: a string, or parts."""
    if value is None:
        return
    if isinstance(value, str):
        yield value
        return
    for index, part in enumerate(value if isinstance(value, list) else [value]):
        yield from _part(part, f"{place}[{index}]" if isinstance(value, list) else place, left)


def call_text(call: object, place: str, left: LeftOut) -> Iterator[str]:
    """The text of a tool call: its name, and the text that its arguments mean."""
    values: list[object] = []
    if isinstance(call, dict):
        for key, body in (("", call), ("function", call.get("function")), ("custom", call.get("custom"))):
            if isinstance(body, dict):
                values += [body[name] for name in _CALL_KEYS if body.get(name) is not None]
                used = (*_CALL_KEYS, "id", "type", "index", "function", "custom")
                left.rest(body, used if body is call else _CALL_KEYS, f"{place}.{key}" if key else place)
            elif body is not None:
                values.append(body)
    text = text_in(values)
    if text:
        yield text
    else:
        left.cannot(place, "tool_call")


def _part(part: object, place: str, left: LeftOut) -> Iterator[str]:
    type_ = part.get("type") if isinstance(part, dict) else type(part).__name__
    if not isinstance(part, dict) or not isinstance(type_, str):
        left.cannot(place, "part", type_)
    elif type_ in _TEXTS and isinstance(part.get(_TEXTS[type_]), str):
        yield part[_TEXTS[type_]]
        left.rest(part, ("type", _TEXTS[type_]), place)
    elif type_ == "tool_use":
        yield from call_text(part, place, left)
    elif type_ == "tool_result":
        yield from content(part.get("content"), f"{place}.content", left)
    else:
        left.cannot(place, _KINDS.get(type_, "part"), type_)


def _checked(messages: object) -> list[dict[str, Any]]:
    """The messages, of the right shape, judged or not. Raises InputError."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise InputError("messages is not a list of objects, expected OpenAI's messages")
    for index, message in enumerate(messages):
        place, role = f"messages[{index}]", message.get("role")
        if role not in ROLES:
            shown = f"the role {quoted([role])}" if isinstance(role, str) else "no role"
            raise InputError(f"{place} has {shown}, expected one of {', '.join(ROLES)}")
        for key, kinds in (("content", (str, list)), ("refusal", (str,)), ("tool_calls", (list,))):
            value = message.get(key)
            if value is not None and not isinstance(value, kinds):
                names = " or ".join(kind.__name__ for kind in kinds)
                raise InputError(f"{place}.{key} is {type(value).__name__}, expected {names}")
    return messages
