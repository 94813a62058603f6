"""Load: clients one after another (closed), and arrivals at fixed times, whatever becomes of them (open)."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .client import Answer, Connection

_TIMEOUT = 120.0


@dataclass(frozen=True)
class Sample:
    """One request: when it was due and answered, in seconds from the start; status 0 where the connection broke."""

    due: float
    answered: float
    status: int
    text: str
    answer: Answer | None

    @property
    def seconds(self) -> float:
        """From when it was due, so that a late client does not hide a queue."""
        return self.answered - self.due


def body_of(text: str) -> dict[str, Any]:
    """A request to /v1/check."""
    return {"text": text}


async def closed(
    port: int,
    texts: Sequence[str],
    *,
    clients: int,
    seconds: float,
    path: str = "/v1/check",
    body: Callable[[str], Any] = body_of,
    headers: dict[str, str] | None = None,
    most: int = 1 << 30,
) -> list[Sample]:
    """Each client sends its next request when it has its answer, until the time is over or there are enough."""
    began = time.perf_counter()
    samples: list[Sample] = []

    async def client(number: int) -> None:
        connection, turn = Connection(port), number
        while (due := time.perf_counter() - began) < seconds and len(samples) < most:
            text = texts[turn % len(texts)]
            turn += clients
            samples.append(await _one(connection, path, body, text, due, began, headers))
        connection.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return samples


async def opened(
    port: int,
    texts: Sequence[str],
    *,
    rate: float,
    seconds: float,
    path: str = "/v1/check",
    body: Callable[[str], Any] = body_of,
    headers: dict[str, str] | None = None,
) -> list[Sample]:
    """`rate` requests a second, evenly spaced, each sent when due on whichever connection is free."""
    began = time.perf_counter()
    free: list[Connection] = []

    async def arrive(number: int) -> Sample:
        due = number / rate
        await asyncio.sleep(max(0.0, due - (time.perf_counter() - began)))
        connection = free.pop() if free else Connection(port)
        try:
            return await _one(connection, path, body, texts[number % len(texts)], due, began, headers)
        finally:
            free.append(connection)

    samples = await asyncio.gather(*(arrive(number) for number in range(int(rate * seconds))))
    for connection in free:
        connection.close()
    return samples


async def _one(
    connection: Connection,
    path: str,
    body: Callable[[str], Any],
    text: str,
    due: float,
    began: float,
    headers: dict[str, str] | None,
) -> Sample:
    answer = None
    try:
        async with asyncio.timeout(_TIMEOUT):
            answer = await connection.ask(path, body(text), headers=headers)
    except (OSError, EOFError, TimeoutError):
        connection.close()
    return Sample(due, time.perf_counter() - began, answer.status if answer else 0, text, answer)


def percentile(samples: Sequence[Sample], percent: float) -> float:
    """Of the seconds of the samples; not a number where there are none."""
    return float(np.percentile([sample.seconds for sample in samples], percent)) if samples else float("nan")
