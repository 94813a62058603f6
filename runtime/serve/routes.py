"""The table of routes: each path with its handler, its access and its documentation."""

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
    """One path and method.

    answer, request: JSON schemas of the bodies. public: whether the path needs no key. too_large: answers a body over
    the limit, for clients that cannot use an error.
    """

    method: str
    path: str
    handler: Callable[[Call], Awaitable[Reply]]
    summary: str
    answer: dict[str, Any]
    request: dict[str, Any] | None = None
    public: bool = False
    also: tuple[int, ...] = ()  # statuses beside 200 with the same body
    errors: tuple[int, ...] = ()
    too_large: Callable[[Call, GuardpassError], Reply] | None = None
    streams: bool = False  # whether the body may ask for server-sent events


_JUDGES = (400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504)

TABLE = (
    Row(
        "POST",
        "/v1/moderations",
        moderations,
        "OpenAI's moderation API",
        schemas.MODERATIONS,
        schemas.MODERATIONS_REQUEST,
        errors=_JUDGES,
    ),
    Row(
        "POST",
        "/v1/check",
        check,
        "The whole verdict on a text or a reply",
        schemas.CHECK,
        schemas.CHECK_REQUEST,
        errors=_JUDGES,
    ),
    Row(
        "POST",
        "/v1/chat/completions",
        chat,
        "The guard's answer as text, in OpenAI's chat API",
        schemas.CHAT,
        schemas.CHAT_REQUEST,
        errors=_JUDGES,
        streams=True,
    ),
    Row(
        "POST",
        "/beta/litellm_basic_guardrail_api",
        litellm,
        "LiteLLM's generic guardrail API",
        schemas.LITELLM,
        schemas.LITELLM_REQUEST,
        errors=_JUDGES,
        too_large=too_large,
    ),
    Row("GET", "/health", health, "Whether the process lives", schemas.STATUS, public=True),
    Row(
        "GET",
        "/ready",
        ready,
        "Whether the server judges: guards are verified and warm, nothing hangs, it does not drain",
        schemas.STATUS,
        public=True,
        also=(503,),
    ),
    Row(
        "GET",
        "/info",
        info,
        "The guards, each one's manifest in short, and the limits",
        schemas.ANY_OBJECT,
        errors=(401,),
    ),
)
