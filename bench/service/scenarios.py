"""What is measured: overhead, overload, churn, soak."""

import asyncio
import json
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from guardpass import Guard

from .client import HOST, Connection
from .load import Sample, body_of, closed, opened, percentile
from .process import Served

_MB = 1e6


@contextmanager
def _memory(server: Served, every: float = 0.5) -> Iterator[list[float]]:
    """Resident MB of the server, sampled."""
    found: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(every):
            found.append(server.memory() / _MB)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
        found.append(server.memory() / _MB)


def bare_checks(guard: Guard, text: str, requests: int) -> dict[str, Any]:
    """`Guard.check`, without a server."""
    took = []
    for _ in range(requests):
        began = time.perf_counter()
        guard.check(text)
        took.append(time.perf_counter() - began)
    return {
        "tokens_run": guard.check(text).tokens.run,
        "bare_check_p50_ms": statistics.median(took) * 1e3,
        "bare_checks_per_second": 1 / statistics.fmean(took),
    }


def overhead(server: Served, text: str, requests: int) -> dict[str, Any]:
    """One client: what a request takes beyond its pass."""
    samples = asyncio.run(closed(server.port, [text], clients=1, seconds=60.0, most=requests))
    took = [(s.answer.seconds * 1e3, float(s.answer.headers["x-pass-ms"])) for s in samples if s.answer]
    return {
        "requests": len(took),
        "server_p50_ms": statistics.median(all for all, _ in took),
        "pass_p50_ms": statistics.median(each for _, each in took),
        "beyond_the_pass_p50_ms": statistics.median(all - each for all, each in took),
        "beyond_the_pass_least_ms": min(all - each for all, each in took),
        "requests_per_second": 1e3 / statistics.fmean(all for all, _ in took),
    }


def overload(server: Served, texts: Sequence[str], *, seconds: float, times: float, deadline: float) -> dict[str, Any]:
    """`times` the capacity for so many seconds, then one client again."""
    alone = asyncio.run(closed(server.port, texts, clients=1, seconds=min(5.0, seconds)))
    capacity = _rate(asyncio.run(closed(server.port, texts, clients=4, seconds=min(10.0, seconds))))
    with _memory(server) as memory:
        before = server.memory() / _MB
        samples = asyncio.run(opened(server.port, texts, rate=capacity * times, seconds=seconds))
    after = asyncio.run(closed(server.port, texts, clients=1, seconds=1.0))
    accepted = [sample for sample in samples if sample.status == 200]
    refused = [sample for sample in samples if sample.status == 429]
    return {
        "capacity_per_second": capacity,
        "offered_per_second": capacity * times,
        "seconds": seconds,
        "statuses": dict(Counter(sample.status for sample in samples)),
        "answered_per_second": len(accepted) / seconds,
        "deadline_s": deadline,
        "accepted_p50_s": percentile(accepted, 50),
        "accepted_p95_s": percentile(accepted, 95),
        "refused_p50_s": percentile(refused, 50),
        "refused_p95_s": percentile(refused, 95),
        "refused_without_retry_after": sum("retry-after" not in s.answer.headers for s in refused if s.answer),
        "memory_before_mb": before,
        "memory_quarters_mb": [statistics.median(part) for part in _quarters(memory)],
        "alone_p50_s": percentile([s for s in alone if s.status == 200], 50),
        "first_second_after_p50_s": percentile([s for s in after if s.status == 200], 50),
        "first_second_after_statuses": dict(Counter(sample.status for sample in after)),
    }


def churn(server: Served, expected: dict[str, float], *, requests: int, clients: int, seed: int = 0) -> dict[str, Any]:
    """Clients that leave, dribble, cancel; every answer is held against its own text's score."""
    texts, found = list(expected), Counter[str]()
    left = [requests]
    before = server.memory() / _MB

    async def client(number: int) -> None:
        rng = random.Random(seed * 1000 + number)
        connection = Connection(server.port)
        while left[0] > 0:
            left[0] -= 1
            text, what = rng.choice(texts), rng.random()
            with suppress(OSError, EOFError):
                if what < 0.1:
                    found["left before the answer"] += 1
                    await _leave(server.port, text, rng.random() * 0.01)
                elif what < 0.15:
                    found["left amid the body"] += 1
                    await _half(server.port, text)
                elif what < 0.2:
                    found["slow body"] += 1
                    found[await _dribble(server.port, text, expected)] += 1
                else:
                    answer = await connection.ask("/v1/check", body_of(text))
                    found[_verdict(answer.status, answer.json(), expected[text])] += 1
        connection.close()

    async def run() -> None:
        await asyncio.gather(*(client(number) for number in range(clients)))

    began = time.perf_counter()
    asyncio.run(run())
    seconds = time.perf_counter() - began
    time.sleep(1.0)
    metrics = server.ask("/metrics").body.decode()
    in_flight = next(line for line in metrics.splitlines() if line.startswith("guardpass_requests_in_flight"))
    return {
        "requests": requests,
        "clients": clients,
        "seconds": seconds,
        **found,
        "memory_before_mb": before,
        "memory_after_mb": server.memory() / _MB,
        "in_flight_at_the_end": float(in_flight.split()[1]) - 1,
    }


def soak(server: Served, texts: Sequence[str], *, minutes: float, share: float) -> dict[str, Any]:
    """A share of the capacity, for long: each minute's p95 and memory."""
    capacity = _rate(asyncio.run(closed(server.port, texts, clients=4, seconds=10.0)))
    slices = []
    for _ in range(max(1, round(minutes))):
        samples = asyncio.run(opened(server.port, texts, rate=capacity * share, seconds=min(60.0, minutes * 60)))
        slices.append(
            (
                percentile(samples, 50),
                percentile(samples, 95),
                server.memory() / _MB,
                Counter(sample.status for sample in samples),
            )
        )
    third = max(1, len(slices) // 3)
    return {
        "capacity_per_second": capacity,
        "share": share,
        "minutes": len(slices),
        "p95_first_third_s": statistics.median(each[1] for each in slices[:third]),
        "p95_last_third_s": statistics.median(each[1] for each in slices[-third:]),
        "memory_first_third_mb": statistics.median(each[2] for each in slices[:third]),
        "memory_last_third_mb": statistics.median(each[2] for each in slices[-third:]),
        "statuses": dict(sum((each[3] for each in slices), Counter[int]())),
    }


def _quarters(found: Sequence[float]) -> list[Sequence[float]]:
    size = max(1, len(found) // 4)
    return [found[start : start + size] for start in range(0, size * 4, size) if found[start:]]


def _rate(samples: Sequence[Sample]) -> float:
    done = [sample for sample in samples if sample.status == 200]
    return len(done) / max(sample.answered for sample in samples)


def _verdict(status: int, body: Any, expected: float) -> str:
    if status != 200:
        return f"status {status}"
    return "right" if abs(body["verdict"]["score"] - expected) < 1e-9 else "CROSSED"


async def _send(port: int, text: str, upto: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    """A request of which a share of the body is sent; the rest is returned."""
    body = json.dumps(body_of(text)).encode()
    reader, writer = await asyncio.open_connection(HOST, port)
    head = (
        f"POST /v1/check HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    cut = int(len(body) * upto)
    writer.write(head.encode() + body[:cut])
    await writer.drain()
    return reader, writer, body[cut:]


async def _leave(port: int, text: str, after: float) -> None:
    _, writer, _ = await _send(port, text, 1.0)
    await asyncio.sleep(after)
    writer.close()


async def _half(port: int, text: str) -> None:
    _, writer, _ = await _send(port, text, 0.5)
    writer.transport.abort()


async def _dribble(port: int, text: str, expected: dict[str, float]) -> str:
    reader, writer, rest = await _send(port, text, 0.1)
    for at in range(0, len(rest), max(1, len(rest) // 4)):
        await asyncio.sleep(0.01)
        writer.write(rest[at : at + max(1, len(rest) // 4)])
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")).split(b":")[1])
    body = await reader.readexactly(size)
    writer.close()
    return _verdict(int(head.split()[1]), json.loads(body), expected[text])
