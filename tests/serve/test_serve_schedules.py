"""Clients that dribble, leave, are late or cancelled, and forks, at random moments: on a simulated clock, and for real.

Whoever stays is answered once, under its own id and with its own verdict; nobody is refused whose wait would have fit.
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guardpass import Bounds, Guard
from guardpass.serve.app import make_app
from guardpass.serve.host import Host
from guardpass.serve.keys import Keys
from guardpass.serve.metrics import Metrics
from guardpass.serve.settings import Settings

from ..support.engines import put_engine
from ..support.simulated import Hashing, Loop, Simulated, learnt

SCHEDULES = 500
CLIENTS = 8
LONG = 60.0


def _cost(passes: int, tokens: int) -> float:
    return 0.005 * passes + 0.003 * tokens


# Of one window and of several, of 10 to 900 milliseconds on the simulated engine.
TEXTS = ["hello there", "안녕하세요", "how do I " * 3, "word " * 40, "긴 글 " * 60, "The quick brown fox jumps. " * 20]


class Client:
    """One request through the application; what it does on the way is random."""

    def __init__(self, rng: random.Random, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self.loop, self.id = loop, f"client-{number}"
        self.text = rng.choice(TEXTS)
        self.asked = {"text": self.text, "priority": rng.choice([0, 0, 0, 1])}
        self.begins = rng.uniform(0.0, 1.5)
        self.deadline = rng.choice([None, None, rng.randint(1, 60), rng.randint(60, 3000)])
        self.how = rng.choice(["stays", "stays", "stays", "leaves", "leaves amid the body", "is cancelled"])
        self.after = rng.expovariate(4.0)  # seconds
        self.body = [{"type": "http.request", "body": part, "more_body": True} for part in self._parts(rng)]
        self.pause = rng.choice([0.0, 0.0, 0.01])
        if self.how == "leaves amid the body":
            self.body = [*self.body[: rng.randrange(len(self.body))], {"type": "http.disconnect"}]
        else:
            self.body[-1]["more_body"] = False
        self.starts: list[Any] = []
        self.answer = b""

    def _parts(self, rng: random.Random) -> Iterator[bytes]:
        body = json.dumps(self.asked).encode()
        cuts = sorted(rng.choices(range(len(body) + 1), k=rng.choice([0, 0, 3])))
        for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
            yield body[start:end]

    async def receive(self) -> Any:
        await asyncio.sleep(self.pause)
        if self.body:
            return self.body.pop(0)
        if self.how == "leaves":
            await asyncio.sleep(self.after)
            return {"type": "http.disconnect"}
        return await asyncio.get_running_loop().create_future()

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.starts.append(message)
        else:
            self.answer += message["body"]

    async def run(self, app: Any, scheduler: Simulated, present: list[str]) -> None:
        await asyncio.sleep(self.begins)
        present.append(self.id)
        headers = [(b"content-type", b"application/json"), (b"x-request-id", self.id.encode())]
        if self.deadline is not None:
            headers.append((b"x-deadline-ms", str(self.deadline).encode()))
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/check",
            "raw_path": b"",
            "query_string": b"",
            "headers": headers,
            "http_version": "1.1",
        }
        asks = asyncio.ensure_future(app(scope, self.receive, self.send))
        if self.how == "is cancelled":
            await asyncio.wait((asks,), timeout=self.after)
            asks.cancel()
        await asyncio.wait((asks,))
        if not asks.cancelled():
            asks.result()
        present.remove(self.id)
        assert scheduler.load[0] <= len(present)  # nothing runs for who is gone

    def check(self, expected: dict[str, float], *, forked: bool) -> int:
        """The status of its answer, 0 for none; what is wrong is an AssertionError."""
        assert len(self.starts) == 1 or (not self.starts and self.how != "stays"), (self.id, self.how, self.starts)
        if not self.starts:
            return 0
        status, headers = self.starts[0]["status"], dict(self.starts[0]["headers"])
        assert headers[b"x-request-id"].decode() == self.id
        assert status in {200, 429, 504} | ({503} if forked else set()), self.answer
        found = json.loads(self.answer)
        if status == 200:
            assert found["verdict"]["score"] == expected[self.text]
        elif status == 429:
            assert int(headers[b"retry-after"]) <= 60
        return int(status)


def test_schedules_on_a_simulated_clock(two_sided: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """500 of them, each with its own seed."""
    bounds, pace, loop = Bounds(requests=5, tokens=600), learnt(_cost), Loop()
    statuses: dict[int, int] = {}
    with Guard.load(two_sided, threads=1, max_tokens=140) as guard:
        put_engine(guard, Hashing(len(guard.manifest.columns)))
        verdicts = {text: guard.check(text) for text in TEXTS}
        assert {verdict.windows > 1 for verdict in verdicts.values()} == {True, False}
        expected = {text: verdict.score for text, verdict in verdicts.items()}
        host, metrics = Host(Settings(("guard",)), {"guard": guard}, "ready"), Metrics()
        app = make_app(host, Keys(None), metrics)
        threads = guard.scheduler
        for seed in range(SCHEDULES):
            rng = random.Random(seed)
            scheduler = Simulated(loop, bounds, pace, _cost)
            guard.scheduler = scheduler  # type: ignore[assignment]
            clients = [Client(rng, number, loop) for number in range(CLIENTS)]
            forks = [rng.uniform(0.0, 2.0)] if rng.random() < 0.3 else []

            async def schedule(clients: Any = clients, forks: Any = forks, scheduler: Any = scheduler) -> None:
                present: list[str] = []
                for at in forks:
                    loop.call_later(at, scheduler.fork)
                await asyncio.gather(*(client.run(app, scheduler, present) for client in clients))
                await asyncio.sleep(5.0)

            loop.run_until_complete(schedule())
            for client in clients:
                status = client.check(expected, forked=bool(forks))
                statuses[status] = statuses.get(status, 0) + 1
            assert not scheduler.wrong, (seed, scheduler.wrong)
            assert scheduler.load == (0, 0)
            assert not scheduler._open
        assert metrics.registry.get_sample_value("guardpass_requests_in_flight") == 0
        guard.scheduler = threads
    loop.close()
    capsys.readouterr()
    # Each of the ways was taken, or nothing was shown.
    assert all(statuses.get(status, 0) > 20 for status in (0, 200, 429, 503, 504)), statuses


class Remote:
    """One request over a socket; what it does on the way is random."""

    def __init__(self, rng: random.Random, name: str) -> None:
        self.id, self.text = name, rng.choice(TEXTS)
        self.begins = rng.uniform(0.0, 0.05)
        self.deadline = rng.choice([None, None, rng.randint(1, 30)])
        body = json.dumps({"text": self.text}).encode()
        lines = [
            "POST /v1/check HTTP/1.1",
            "host: test",
            "content-type: application/json",
            f"x-request-id: {self.id}",
            f"content-length: {len(body)}",
            "connection: close",
        ]
        lines += [f"x-deadline-ms: {self.deadline}"] if self.deadline is not None else []
        self.sends = "\r\n".join([*lines, "", ""]).encode() + body
        self.leaves = rng.random() < 0.3
        self.ends = rng.randrange(len(self.sends) + 1) if self.leaves else len(self.sends)
        self.pauses = rng.randrange(self.ends) if self.ends and rng.random() < 0.3 else 0

    async def run(self, port: int, expected: dict[str, float]) -> int:
        await asyncio.sleep(self.begins)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(self.sends[: self.pauses])
            await asyncio.sleep(0.005 if self.pauses else 0.0)
            writer.write(self.sends[self.pauses : self.ends])
            await writer.drain()
            if self.leaves:
                return 0
            answer = await reader.read()  # to its end: what were answered twice would be two
        finally:
            writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        status, headers = int(head.split()[1]), head.decode().lower()
        assert f"x-request-id: {self.id}\r\n" in headers + "\r\n", (self.id, answer)
        assert f"content-length: {len(body)}" in headers
        assert status in {200, 429, 504}, answer
        found = json.loads(body)
        if status == 200:
            assert found["verdict"]["score"] == pytest.approx(expected[self.text], abs=1e-6)
        else:
            assert self.deadline is not None, answer
        return status


def test_schedules_over_real_sockets_to_workers_that_were_forked(two_sided: Path) -> None:
    """50 of them, while workers fork once more."""
    with Guard.load(two_sided, threads=1) as guard:
        expected = {text: guard.check(text).score for text in TEXTS}
        alone = guard.check("a child of a worker").score
    command = [sys.executable, "-m", "tests.support.preloaded", str(two_sided), "2"]
    statuses: list[int] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        port, *workers = map(int, server.stdout.readline().split())

        async def schedules() -> None:
            for seed in range(50):
                rng = random.Random(seed)
                clients = [Remote(rng, f"{seed}-{n}") for n in range(6)]
                tasks = [asyncio.ensure_future(client.run(port, expected)) for client in clients]
                if seed % 10 == 0:
                    await asyncio.sleep(rng.uniform(0.0, 0.05))
                    os.kill(rng.choice(workers), signal.SIGUSR1)
                statuses.extend(await asyncio.wait_for(asyncio.gather(*tasks), LONG))

        try:
            asyncio.run(schedules())
            assert [float(server.stdout.readline()) for _ in range(5)] == pytest.approx([alone] * 5, abs=1e-6)
        finally:
            server.stdin.close()
            ended = server.wait(LONG)
        assert ended == 0
    assert statuses.count(200) > 100
    assert statuses.count(0) > 20
