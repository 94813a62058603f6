"""Engines that raise, give NaN, hang or drag on, behind the server's own application; and its table of failures."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from guardpass import Bounds, EngineError, Guard, GuardpassError
from guardpass.serve import errors
from guardpass.serve.app import make_app
from guardpass.serve.host import Host
from guardpass.serve.keys import Keys
from guardpass.serve.metrics import Metrics
from guardpass.serve.settings import Settings

from ..support.engines import engine_of, put_engine

DOCS = Path(__file__).parents[2] / "docs" / "reliability.md"
LONG = 30.0


class Faulty:
    """In place of an engine: what a pass does, the test says."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.fault = engine, None
        self.ran = 0

    def run(self, request: Any) -> Any:
        self.ran += 1
        return self.fault() if self.fault is not None else self.engine.run(request)


class Server:
    """The application, asked without a network."""

    def __init__(self, guard: Guard, **settings: Any) -> None:
        self.guard, self.engine = guard, Faulty(engine_of(guard))
        put_engine(guard, self.engine)
        self.host = Host(Settings(("guard",), **settings), {"guard": guard}, "ready")
        self.metrics = Metrics()
        self.app = make_app(self.host, Keys(None), self.metrics)

    def ask(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        return asyncio.run(self.aask(path, body, **headers))

    async def aask(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=LONG) as client:
            if body is None:
                return await client.get(path, headers=headers)
            return await client.post(
                path, content=json.dumps(body), headers={"content-type": "application/json", **headers}
            )

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def make(two_sided: Path) -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def make(**settings: Any) -> Server:
        made.append(Server(Guard.load(two_sided, threads=1), **settings))
        return made[-1]

    yield make
    for server in made:
        server.engine.fault = None
        server.guard.close(LONG)


def _raises(error: BaseException) -> Callable[[], Any]:
    def fault() -> Any:
        raise error

    return fault


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (_raises(EngineError("broken")), "engine"),
        (_raises(MemoryError("the text itself")), "engine"),
        (lambda: np.full((1, 1, 8), np.nan, np.float32), "bad_scores"),
        (lambda: np.full((1, 1, 8), -np.inf, np.float32), "bad_scores"),
    ],
)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/check", {"text": "x"}),
        ("/v1/check", {"text": "x", "panel": "any"}),
        ("/v1/moderations", {"input": "x"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("/beta/litellm_basic_guardrail_api", {"texts": ["x"], "input_type": "request"}),
    ],
)
def test_a_fault_is_a_500_for_its_request_alone(
    make: Callable[..., Server],
    fault: Callable[[], Any],
    kind: str,
    path: str,
    body: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = make()
    server.engine.fault = fault
    failed = server.ask(path, body)
    assert (failed.status_code, failed.json()["error"]["type"]) == (500, kind)
    assert "the text itself" not in failed.text + capsys.readouterr().err
    assert server.count("guardpass_failures_total", kind=kind) == 1
    server.engine.fault = None
    assert server.ask(path, body).status_code == 200
    assert server.ask("/ready").status_code == 200


def test_a_hanging_pass_is_a_504_the_next_ones_work_and_ready_tells(make: Callable[..., Server]) -> None:
    server, door = make(deadline=0.2), threading.Event()
    server.engine.fault = lambda: np.zeros(int(door.wait(LONG)), np.float32)
    failed = server.ask("/v1/check", {"text": "x"})
    assert (failed.status_code, failed.json()["error"]["type"]) == (504, "deadline")
    server.engine.fault = None
    server.host.settings = Settings(("guard",), deadline=LONG)
    assert server.ask("/v1/check", {"text": "next"}).status_code == 200  # in another thread
    ready = server.ask("/ready")
    assert (ready.status_code, ready.json()["status"], ready.json()["hung"]) == (503, "hung", {"guard": 1})
    assert "retry-after" in ready.headers
    door.set()
    for _ in range(300):
        if server.ask("/ready").status_code == 200:
            break
        threading.Event().wait(0.1)
    assert server.ask("/ready").status_code == 200


@pytest.mark.parametrize("on_error", ["block", "allow"])
def test_on_error_is_in_the_verdict(make: Callable[..., Server], on_error: Any) -> None:
    server = make(on_error=on_error)
    server.engine.fault = _raises(EngineError("broken"))
    found = server.ask("/v1/moderations", {"input": "x"}).json()["results"][0]
    assert found["flagged"] is (on_error == "block")
    assert found["guardpass"]["failure"] == {"kind": "engine", "message": "broken", "on_error": on_error}
    assert not any(found["categories"].values())
    action = server.ask("/beta/litellm_basic_guardrail_api", {"texts": ["x"], "input_type": "request"}).json()["action"]
    assert action == ("BLOCKED" if on_error == "block" else "NONE")
    chat = server.ask("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]})
    assert chat.status_code == 500  # there is no literal answer of a guard to this
    assert server.ask("/info").json()["on_error"] == on_error
    assert server.count("guardpass_undecided_total", guard="guard", on_error=on_error) == 2
    text = server.ask("/v1/check", {"text": "\ud800"})
    assert text.status_code == (200 if on_error == "block" else 422)


@pytest.mark.parametrize(("state", "level"), [("loading", "info"), ("draining", "info"), ("ready", "error")])
def test_not_ready_is_a_fault_of_a_server_that_hangs_alone(
    make: Callable[..., Server], capsys: pytest.CaptureFixture[str], state: Any, level: str
) -> None:
    server = make()
    server.host.state = state
    server.host.readiness = lambda: (False, {"status": state})  # type: ignore[method-assign]
    assert server.ask("/ready").status_code == 503
    assert json.loads(capsys.readouterr().err)["level"] == level


def test_excess_gets_429_with_retry_after_and_closed_503(make: Callable[..., Server]) -> None:
    server, door = make(), threading.Event()
    server.guard.scheduler._dispatcher.waiting._bounds = Bounds(2, 10000)
    run = server.engine.engine.run
    server.engine.run = lambda request: door.wait(LONG) and run(request)  # type: ignore[method-assign]

    async def many() -> list[httpx.Response]:
        asks = [asyncio.create_task(server.aask("/v1/check", {"text": f"{n}"})) for n in range(10)]
        while sum(task.done() for task in asks) < 7:
            await asyncio.sleep(0.01)
        door.set()
        return list(await asyncio.gather(*asks))

    answers = asyncio.run(many())
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 7
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code == 429)
    server.host.close(LONG)
    answer = server.ask("/v1/check", {"text": "late"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "closed")
    assert "retry-after" in answer.headers
    assert server.ask("/health").status_code == 200


def test_a_client_that_leaves_frees_its_place(make: Callable[..., Server]) -> None:
    server, door, entered = make(), threading.Event(), threading.Event()
    run = server.engine.engine.run

    def slow(request: Any) -> Any:
        server.engine.ran += 1
        entered.set()
        door.wait(LONG)
        return run(request)

    server.engine.run = slow  # type: ignore[method-assign]

    async def leave() -> None:
        first = asyncio.create_task(server.aask("/v1/check", {"text": "first"}))
        await asyncio.to_thread(entered.wait, LONG)
        sent: list[Any] = []
        gone = asyncio.Event()
        body = [{"type": "http.request", "body": b'{"text": "second"}', "more_body": False}]

        async def receive() -> Any:
            if body:
                return body.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/check",
            "raw_path": b"",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
            "http_version": "1.1",
        }
        second = asyncio.create_task(server.app(scope, receive, send))
        while server.guard.scheduler.load[0] < 2:
            await asyncio.sleep(0.01)
        gone.set()
        await second
        assert not sent
        assert server.guard.scheduler.load[0] == 1
        door.set()
        assert (await first).status_code == 200

    asyncio.run(leave())
    assert server.engine.ran == 1


@pytest.mark.parametrize("body", [{"text": "left alone"}, {"text": "left alone", "panel": "any"}])
def test_a_server_around_ours_that_cancels_the_task_ends_its_pass(make: Callable[..., Server], body: Any) -> None:
    """It may never send http.disconnect: Starlette's middleware and some servers cancel the task instead."""
    server, door, entered = make(), threading.Event(), threading.Event()
    run = server.engine.engine.run

    def slow(request: Any) -> Any:
        entered.set()
        door.wait(LONG)
        return run(request)

    server.engine.run = slow  # type: ignore[method-assign]

    async def leave() -> None:
        asks = asyncio.create_task(server.aask("/v1/check", body))
        await asyncio.to_thread(entered.wait, LONG)
        (turn,) = server.guard.scheduler._dispatcher.running
        asks.cancel()
        await asyncio.wait((asks,))
        assert turn.entries[0].ticket.stop.requested
        assert server.guard.scheduler.load == (0, 0)
        door.set()

    asyncio.run(leave())
    assert server.ask("/v1/check", {"text": "the next"}).status_code == 200


def test_the_documented_table_of_failures_is_that_of_the_types() -> None:
    """docs/reliability.md has a row for each: type, kind, HTTP status, exit code."""
    ours = [GuardpassError]
    for found in ours:
        ours += [each for each in found.__subclasses__() if each.__module__ in ("guardpass.errors", errors.__name__)]
    rows = {f"| `{t.__name__}` | `{t.kind}` | {t.status} | {t.exit_code} |" for t in ours[1:]}
    lines = [line for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    assert {row for row in rows if not any(line.startswith(row) for line in lines)} == set()
