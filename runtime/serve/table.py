"""Every path of the server, once: who answers, who may ask, and how it is documented."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ..errors import GuardpassError
from . import schemas
from .call import Call, Reply
from .chat import chat
from .endpoints import check, health, info, ready
from .litellm import litellm, too_large
from .moderations import moderations


@dataclass(frozen=True)
class Row:
    """One path and method. `asks`, `answers`: JSON schemas of the bodies; public: without a key.

    too_large: the answer to a body that was not read to its end, for clients to whom an error says nothing.
    """

    method: str
    path: str
    handler: Callable[[Call], Awaitable[Reply]]
    summary: str
    answers: dict[str, Any]
    asks: dict[str, Any] | None = None
    public: bool = False
    also: tuple[int, ...] = ()  # other statuses, besides those of errors
    errors: tuple[int, ...] = ()
    too_large: Callable[[Call, GuardpassError], Reply] | None = None
    streams: bool = False  # server-sent events, where the body says so


_JUDGES = (400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504)

TABLE = (
    Row("POST", "/v1/moderations", moderations, "OpenAI's moderation API", schemas.MODERATIONS,
        schemas.MODERATIONS_REQUEST, errors=_JUDGES),
    Row("POST", "/v1/check", check, "Everything a guard says on a text or a reply", schemas.CHECK,
        schemas.CHECK_REQUEST, errors=_JUDGES),
    Row("POST", "/v1/chat/completions", chat, "The guard's answer as text, in OpenAI's chat API", schemas.CHAT,
        schemas.CHAT_REQUEST, errors=_JUDGES, streams=True),
    Row("POST", "/beta/litellm_basic_guardrail_api", litellm, "LiteLLM's generic guardrail API", schemas.LITELLM,
        schemas.LITELLM_REQUEST, errors=_JUDGES, too_large=too_large),
    Row("GET", "/health", health, "Whether the process lives", schemas.STATUS, public=True),
    Row("GET", "/ready", ready, "Whether it judges: guards verified and warm, nothing hangs, not draining",
        schemas.STATUS, public=True, also=(503,)),
    Row("GET", "/info", info, "What is served, its limits, and each guard's manifest in short", schemas.ANY_OBJECT,
        errors=(401,)),
)  # fmt: skip
