"""Reads a request's body, JSON of bounded size, in bounded time."""

import asyncio
import json
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from ..errors import Cancelled, InputError
from .errors import BodyTooLarge, BodyTooSlow, WrongMediaType
from .settings import Settings


async def read_json(request: Request, settings: Settings) -> dict[str, Any]:
    """Read the JSON object of the body. Raises InputError, and Cancelled for a client that disconnects."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":  # a page of another origin cannot send this type without a preflight
        raise WrongMediaType(f"content-type is {media or 'missing'}, expected application/json")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > settings.max_body:
        _too_large(settings)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.body_timeout):
            async for chunk in request.stream():
                size += len(chunk)
                if size > settings.max_body:
                    _too_large(settings)
                chunks.append(chunk)
    except TimeoutError:
        raise BodyTooSlow(f"the body took more than {settings.body_timeout:g} s; send it faster") from None
    except ClientDisconnect:
        raise Cancelled("the client disconnected while it sent the body") from None
    return parse(b"".join(chunks))


def parse(body: bytes) -> dict[str, Any]:
    """Parse a JSON object. Raises InputError, which never quotes the body."""
    try:
        value = json.loads(body.decode(), parse_constant=_constant)
    except UnicodeDecodeError as error:
        raise InputError(f"the body is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"the body is not JSON: {error.msg} at character {error.pos}") from None
    except (ValueError, RecursionError):  # numbers of thousands of digits, NaN, lists in lists in lists
        raise InputError("the body nests too deep, or has a number that JSON does not allow; send plain JSON") from None
    if not isinstance(value, dict):
        raise InputError(f"the body holds {type(value).__name__}, expected an object")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(name)


def _too_large(settings: Settings) -> NoReturn:
    raise BodyTooLarge(f"the body has more than {settings.max_body} bytes, the limit of this server; send less text")
