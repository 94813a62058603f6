"""guardpass's own endpoints: POST /v1/check, GET /health, /ready, /info, /metrics."""

from .. import __version__
from ..errors import InputError
from .call import Call, Reply
from .fields import OPTIONS, judging, only, optional, text_of

_KEYS = ("text", "response", "guard", "panel", *OPTIONS)


async def check(call: Call) -> Reply:
    """The whole verdict of one guard on a text or a reply, or of all guards by a panel's policy."""
    body = call.body
    only(body, _KEYS)
    text, response = text_of(body, "text"), optional(body, "response", str)
    options = judging(body)
    if body.get("panel") is not None:
        if body.get("guard") is not None:
            raise InputError("found both guard and panel, expected one of them")
        verdict = await call.ask_panel(body["panel"], text, response, **options)
        return Reply({"id": call.id, "panel": verdict.to_json()})
    name, _, (single,) = await call.judge(body.get("guard"), [(text, response)], **options)
    return Reply({"id": call.id, "guard": name, "verdict": single.to_json()})


async def health(_: Call) -> Reply:
    """Whether the process lives."""
    return Reply({"status": "ok"})


async def ready(call: Call) -> Reply:
    """Whether the guards are verified and warm, nothing hangs, and the server is not draining."""
    yes, body = call.host.readiness()
    return Reply(body) if yes else Reply(body, 503, headers={"retry-after": "1"})


async def info(call: Call) -> Reply:
    """The guards, the limits, and the policy for failures."""
    settings = call.host.settings
    limits = {
        "deadline_ms": settings.deadline * 1e3,
        "max_body_bytes": settings.max_body,
        "max_items": settings.max_items,
        "max_queue": settings.max_queue,
        "max_queue_tokens": settings.max_queue_tokens,
    }
    guards = {name: guard.describe() for name, guard in call.host.guards.items()}
    choices = {"on_error": settings.on_error, "unjudged": settings.unjudged, "normalize": settings.normalize}
    return Reply({"guardpass": __version__, **choices, "limits": limits, "guards": guards})
