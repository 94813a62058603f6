"""The OpenAPI document, made of the table of paths."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from .. import __version__
from .schemas import ERROR
from .table import Row


def document(rows: Iterable[Row], *, keys: bool) -> dict[str, Any]:
    """OpenAPI 3.1; keys: whether the server asks for API keys."""
    paths: dict[str, dict[str, Any]] = {}
    for row in rows:
        paths.setdefault(row.path, {})[row.method.lower()] = _operation(row, keys)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "guardpass",
            "version": __version__,
            "description": "Guard models in one prefill pass. Every answer has x-request-id; a verdict's also "
            "x-queue-ms, x-tokenize-ms, x-pass-ms. x-deadline-ms asks for less time than the server would take.",
        },
        "paths": paths,
        "components": {
            "schemas": {"Error": ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(row: Row, keys: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"application/json": {"schema": row.answers}}
    if row.streams:
        body["text/event-stream"] = {}
    failed = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    responses = {str(code): {"description": _phrase(code), "content": body} for code in (200, *row.also)}
    responses |= {
        str(code): {"description": _phrase(code), "content": failed} for code in row.errors if keys or code != 401
    }
    found: dict[str, Any] = {"summary": row.summary, "operationId": row.handler.__name__, "responses": responses}
    if row.asks is not None:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": row.asks}}}
    if keys and not row.public:
        found["security"] = [{"key": []}]
    return found


def _phrase(code: int) -> str:
    return HTTPStatus(code).phrase
