"""Builds the OpenAPI document from the table of paths."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from .. import __version__
from .routes import Row
from .schemas import ERROR


def document(rows: Iterable[Row], *, keys: bool) -> dict[str, Any]:
    """OpenAPI 3.1; keys: whether the server checks API keys."""
    paths: dict[str, dict[str, Any]] = {}
    for row in rows:
        paths.setdefault(row.path, {})[row.method.lower()] = _operation(row, keys)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "guardpass",
            "version": __version__,
            "description": "Guard models in one prefill pass. Every answer has x-request-id; a verdict's also "
            "x-queue-ms, x-tokenize-ms, x-pass-ms. x-deadline-ms sets a shorter deadline than the server's.",
        },
        "paths": paths,
        "components": {
            "schemas": {"Error": ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(row: Row, keys: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"application/json": {"schema": row.answer}}
    if row.streams:
        body["text/event-stream"] = {}
    failed = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    responses = {str(code): {"description": _phrase(code), "content": body} for code in (200, *row.also)}
    responses |= {
        str(code): {"description": _phrase(code), "content": failed} for code in row.errors if keys or code != 401
    }
    operation: dict[str, Any] = {"summary": row.summary, "operationId": row.handler.__name__, "responses": responses}
    if row.request is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": row.request}}}
    if keys and not row.public:
        operation["security"] = [{"key": []}]
    return operation


def _phrase(code: int) -> str:
    return HTTPStatus(code).phrase
