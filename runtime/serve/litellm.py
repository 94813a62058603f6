"""POST /beta/litellm_basic_guardrail_api: LiteLLM's generic guardrail API (docs.litellm.ai, adding_provider)."""

from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import BadText, GuardpassError, InputError
from ..panel_policy import PanelVerdict
from ..verdict import Verdict
from .call import Call, Reply
from .fields import OPTIONS, judging, only, optional, text_of, without
from .json_text import text_in
from .left_out import LeftOut
from .messages import call_text, content, texts_of

_PARAMS = "additional_provider_specific_params"
_LISTS: dict[str, type] = {
    "texts": str,
    "images": object,
    "tools": dict,
    "tool_calls": dict,
    "structured_messages": dict,
}
# The keywords of a tool's JSON schema: they do not describe the tool.
_GRAMMAR = (
    "type",
    "format",
    "required",
    "additionalProperties",
    "strict",
    "function",
    "parameters",
    "input_schema",
    "properties",
    "items",
)
# Keys of a message, beside its content, whose text a model reads.
_ALSO = ("name", "reasoning_content", "thinking_blocks")

Item = tuple[str, str | None]


async def litellm(call: Call) -> Reply:
    """BLOCKED with the reason, or NONE if every text is judged and is safe.

    A reply's question is in `structured_messages` or nowhere. Without it, a guard that judges replies judges a reply to
    an empty message; other guards judge the reply as a text. Each text is judged once, `max_items` of them at a time.
    """
    body, left = call.body, LeftOut()
    input_type = text_of(body, "input_type")
    if input_type not in ("request", "response"):
        raise InputError("input_type: expected request or response")
    without(body, ("guard", "panel", *OPTIONS), f"put them into {_PARAMS}")
    lists = {key: _list(body, key, kind) for key, kind in _LISTS.items()}
    params = optional(body, _PARAMS, dict, {})
    only(params, ("guard", "panel", *OPTIONS), _PARAMS)
    jury = _Jury(call, params)
    question = None
    if input_type == "response":  # LiteLLM has sent the messages as a request before
        messages = lists.pop("structured_messages")
        if jury.judges_replies:
            question = _question(messages, left)
        elif messages:
            left.ignore("structured_messages")
    texts = dict.fromkeys(_texts(lists, left))
    left.rest(body, (*_LISTS, "input_type", _PARAMS))
    if not call.pass_over(left):
        return _blocked(left.why(), left)
    items: list[Item] = [(text, None) if question is None else (question, text) for text in texts]
    try:
        reason = await jury.objection(items)
    except BadText as error:  # LiteLLM makes a 500 of an error, and would send the text again
        call.unjudged.append((error.kind, "block"))
        reason = str(error)
    return _blocked(reason, left) if reason else Reply({"action": "NONE", "guardpass": {"ignored": left.ignored()}})


def too_large(call: Call, error: GuardpassError) -> Reply:
    """The answer to a body over the limit."""
    call.unjudged.append((error.kind, "block"))
    return _blocked(str(error), LeftOut())


def _blocked(reason: str, left: LeftOut) -> Reply:
    return Reply({"action": "BLOCKED", "blocked_reason": reason, "guardpass": {"ignored": left.ignored()}})


class _Jury:
    """The judge of a request: a guard or a panel of all, with the options."""

    def __init__(self, call: Call, params: Mapping[str, Any]) -> None:
        self._call, self._options, self._panel = call, judging(params), params.get("panel")
        if self._panel is None:
            self._name, guard = call.host.find(params.get("guard"))
            guards = [guard]
        elif params.get("guard") is None:
            guards = list(call.host.panel(self._panel).guards.values())
        else:
            raise InputError(f"{_PARAMS} has both guard and panel, expected one of them")
        self.judges_replies = any("response" in guard.manifest.modes for guard in guards)

    async def objection(self, items: list[Item]) -> str | None:
        """The reason of the first unsafe item; None if all are safe."""
        most = self._call.host.settings.max_items if self._panel is None else 1
        for start in range(0, len(items), most):
            batch = items[start : start + most]
            if self._panel is None:
                _, _, verdicts = await self._call.judge(self._name, batch, **self._options)
                worst = max(verdicts, key=lambda verdict: (not verdict.safe, verdict.score))
                if not worst.safe:
                    return _reason(self._name, worst)
            else:
                verdict = await self._call.ask_panel(self._panel, *batch[0], **self._options)
                if not verdict.safe:
                    return _reasons(verdict)
        return None


def _reason(name: str, verdict: Verdict) -> str:
    if verdict.failure is not None:
        return f"{name}: {verdict.failure.message}"
    return f"{name}: {', '.join(verdict.categories) or verdict.label} (score {verdict.score:.3f})"


def _reasons(verdict: PanelVerdict) -> str:
    deciding = [(name, verdict.members[name]) for name in verdict.decided_by]
    return "; ".join(_reason(name, member) for name, member in deciding if member is not None)


def _list(body: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    values: list[Any] = optional(body, key, list, [])
    if not all(isinstance(value, kind) for value in values):
        raise InputError(f"{key}: expected a list of {'strings' if kind is str else 'objects'}")
    return values


def _texts(lists: Mapping[str, list[Any]], left: LeftOut) -> Iterator[str]:
    """All texts of a request, in order."""
    yield from lists["texts"]
    for index, call in enumerate(lists["tool_calls"]):
        yield from call_text(call, f"tool_calls[{index}]", left)
    for index, message in enumerate(lists.get("structured_messages", ())):  # `texts` repeats most of them
        yield from texts_of(message, f"structured_messages[{index}]", left, _ALSO)
    for tool in lists["tools"]:
        text = text_in(tool, _GRAMMAR)
        if text:  # a tool that is only a type has none
            yield text
    for index, _ in enumerate(lists["images"]):
        left.cannot(f"images[{index}]", "image")


def _question(messages: list[Any], left: LeftOut) -> str:
    """The text of the user's last message. Its other content was blocked or allowed with the request."""
    users = [index for index, message in enumerate(messages) if message.get("role") == "user"]
    for index in range(len(messages)):
        if index not in users[-1:]:
            left.ignore(f"structured_messages[{index}]")
    return "\n".join(content(messages[users[-1]].get("content"), "", LeftOut())) if users else ""
