"""A request's body, in bounded size and time, as JSON that can be looked at."""

import asyncio
import json
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from ..errors import Cancelled, InputError
from .errors import BodyTooLarge, BodyTooSlow, WrongMediaType
from .settings import Settings


async def read_json(request: Request, settings: Settings) -> dict[str, Any]:
    """The object in the body. Raises InputError of several kinds, and Cancelled where the client went away."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":  # what a page of another origin may send unasked is never this
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
        raise Cancelled("the client went away while it sent the body") from None
    return parse(b"".join(chunks))


def parse(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises InputError, which never quotes what was sent."""
    try:
        value = json.loads(body.decode(), parse_constant=_constant)
    except UnicodeDecodeError as error:
        raise InputError(f"the body is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"the body is not JSON: {error.msg} at character {error.pos}") from None
    except (ValueError, RecursionError):  # numbers of thousands of digits, NaN, lists in lists in lists
        raise InputError("the body is not JSON that can be read: too deep, or a number that is none") from None
    if not isinstance(value, dict):
        raise InputError(f"the body holds {type(value).__name__}, expected an object")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(name)


def _too_large(settings: Settings) -> NoReturn:
    raise BodyTooLarge(f"the body has more than {settings.max_body} bytes, the most this server takes")
