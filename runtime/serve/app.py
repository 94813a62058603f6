"""The ASGI application: every request gets an id, a deadline, an answer in JSON, a log line and a count."""

import asyncio
import json
import math
import re
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..errors import Cancelled, Closed, GuardpassError, InputError, Overloaded
from ..verdict import Verdict
from .body import read_json
from .call import Call, Reply
from .errors import BodyTooLarge, NotFound, WrongMethod
from .host import Host
from .keys import Keys
from .logs import log
from .metrics import Metrics
from .openapi import document
from .page import PAGE, PAGE_HEADERS
from .routes import TABLE, Row

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def make_app(host: Host, keys: Keys, metrics: Metrics) -> Starlette:
    """The application that serves the guards of `host`."""
    openapi_document = document(TABLE, keys=bool(keys))

    async def openapi(_: Call) -> Reply:
        return Reply(openapi_document)

    async def scrape(call: Call) -> Reply:
        metrics.ready.set(call.host.readiness()[0])
        return Reply(metrics.text(), media="text/plain; version=0.0.4; charset=utf-8")

    async def page(_: Call) -> Reply:
        return Reply(PAGE, media="text/html; charset=utf-8", headers=PAGE_HEADERS)

    rows = (
        *TABLE,
        Row("GET", "/metrics", scrape, "Prometheus' text format", {}),
        Row("GET", "/openapi.json", openapi, "This document", {}, public=True),
        Row("GET", "/", page, "A page to try it", {}, public=True),
    )
    common = _Common(host, keys, metrics)
    routes = [Route(row.path, _Endpoint(row, common), methods=[row.method]) for row in rows]

    async def unmatched(request: Request, error: Exception) -> Response:
        methods = error.headers.get("Allow", "") if isinstance(error, HTTPException) and error.headers else ""
        answer: GuardpassError = NotFound("there is no such path; /openapi.json has them all")
        if methods:
            answer = WrongMethod(f"the method is {request.method}, expected {methods}")
        began = time.perf_counter()
        return common.finish("unmatched", _new_id(request), began, _error_reply(answer), (), answer, methods)

    return Starlette(routes=routes, exception_handlers={404: unmatched, 405: unmatched})


class _Common:
    """The state that all endpoints share."""

    def __init__(self, host: Host, keys: Keys, metrics: Metrics) -> None:
        self.host, self.keys, self.metrics = host, keys, metrics

    def finish(
        self,
        path: str,
        id: str,
        began: float,
        reply: Reply,
        judged: Sequence[tuple[str, Verdict]],
        error: GuardpassError | None,
        allow: str = "",
        unjudged: Sequence[tuple[str, str]] = (),
    ) -> Response:
        """Set an answer's headers, count it and log it."""
        took = time.perf_counter() - began
        headers = {"x-request-id": id, "cache-control": "no-store"} | reply.headers
        phases: dict[str, float] = {}
        kind = error.kind if error else None
        for name, verdict in judged:
            self.metrics.judged(name, verdict)
            kind = verdict.failure.kind if verdict.failure else kind
            for phase, ms in (("tokenize", verdict.ms.tokenize), ("pass", verdict.ms.run)):
                phases[phase] = phases.get(phase, 0.0) + ms
            phases["queue"] = max(phases.get("queue", 0.0), verdict.ms.queue)
        headers |= {f"x-{phase}-ms": f"{ms:.3f}" for phase, ms in phases.items()}
        if phases:
            headers["server-timing"] = ", ".join(f"{phase};dur={ms:.3f}" for phase, ms in phases.items())
        if allow:
            headers["allow"] = allow
        if isinstance(error, Overloaded):
            headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
        elif isinstance(error, Closed):
            headers["retry-after"] = str(max(1, math.ceil(self.host.settings.notice)))
        if reply.status == 401:
            headers["www-authenticate"] = "Bearer"
        if error is not None:
            self.metrics.failures.labels(error.kind).inc()
        for (piece, outcome), number in Counter(unjudged).items():
            self.metrics.unjudged.labels(piece, outcome).inc(number)
        self.metrics.requests.labels(path, str(reply.status)).inc()
        self.metrics.seconds.labels(path).observe(took)
        # A server that loads or drains is not ready, and that is not a fault.
        fault = reply.status >= 500 and (error is not None or self.host.state == "ready")
        log(
            "error" if fault else "info",
            "request",
            id=id,
            path=path,
            status=reply.status,
            ms=round(took * 1e3, 3),
            error=kind,
            texts=len(judged) or None,
            unjudged=sorted({f"{piece}: {outcome}" for piece, outcome in unjudged}) or None,
            **{f"{phase}_ms": round(ms, 3) for phase, ms in phases.items()},
        )
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body, allow_nan=False).encode()
        return Response(body, reply.status, headers, reply.media)


class _Endpoint:
    """One row of the table, as an ASGI application."""

    def __init__(self, row: Row, common: _Common) -> None:
        self._row, self._common = row, common

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        request = Request(scope, receive)
        host = self._common.host
        call = Call(host, {}, asyncio.get_running_loop().time() + host.settings.deadline, receive, _new_id(request))
        error: GuardpassError | None = None
        with self._common.metrics.in_flight.track_inprogress():
            try:
                reply = await self._answer(request, call)
            except GuardpassError as failure:
                error, reply = failure, _error_reply(failure)
                if isinstance(failure.__cause__, Exception):
                    _log_unexpected(failure.__cause__, call.id)
            except Exception as failure:
                _log_unexpected(failure, call.id)
                error = GuardpassError(f"unexpected {type(failure).__name__}; the log has the request id {call.id}")
                reply = _error_reply(error)
            response = self._common.finish(
                self._row.path, call.id, began, reply, call.judged, error, unjudged=call.unjudged
            )
            if not isinstance(error, Cancelled):  # else the client is gone
                await response(scope, receive, send)

    async def _answer(self, request: Request, call: Call) -> Reply:
        headers = request.headers
        if not self._row.public:
            self._common.keys.check(headers.get("authorization"), headers.get("x-api-key"))
        if self._row.request is not None:
            call.deadline = min(call.deadline, _client_deadline(headers.get("x-deadline-ms"), call.deadline))
            try:
                call.body = await read_json(request, call.host.settings)
            except BodyTooLarge as error:
                if self._row.too_large is None:
                    raise
                return self._row.too_large(call, error)
        return await self._row.handler(call)


def _client_deadline(header: str | None, deadline: float) -> float:
    """The deadline by the client's x-deadline-ms, or `deadline` without one. Raises InputError."""
    if header is None:
        return deadline
    if not header.isascii() or not header.isdigit() or not int(header[:9]) >= 1 or len(header) > 9:
        raise InputError("x-deadline-ms: expected whole milliseconds, 1 or more")
    return asyncio.get_running_loop().time() + int(header) / 1e3


def _error_reply(error: GuardpassError) -> Reply:
    """An error in OpenAI's shape."""
    body = {"message": str(error), "type": error.kind, "code": error.kind, "param": None}
    return Reply({"error": body}, error.status)


def _new_id(request: Request) -> str:
    """The client's id if it is plain, else a new one."""
    header = request.headers.get("x-request-id", "")
    return header if _ID.fullmatch(header) else uuid.uuid4().hex


def _log_unexpected(error: Exception, id: str) -> None:
    """Log an unexpected exception: its type and place, not its message, which may quote the text."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace is not None else None
    log("error", "unexpected", id=id, kind=type(error).__name__, where=where)
