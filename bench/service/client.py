"""A small HTTP/1.1 client: on two cores a large one would be most of what is measured."""

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Answer:
    """`seconds`: from sending to the whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class Connection:
    """One connection, opened when first needed and again after the server closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, path: str, body: Any = None, *, headers: dict[str, str] | None = None) -> Answer:
        """GET, or POST of `body` as JSON (bytes as they are). Raises OSError, EOFError where the server goes away."""
        began = time.perf_counter()
        if self._streams is None or self._streams[1].is_closing() or self._streams[0].at_eof():
            self._streams = await asyncio.open_connection(HOST, self._port)
        reader, writer = self._streams
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", f"host: {HOST}"]
        lines += [f"content-length: {len(content)}", "content-type: application/json"] if body is not None else []
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        try:
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            found = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
            }
            answer = await reader.readexactly(int(found["content-length"]))
        except BaseException:
            self.close()
            raise
        if found.get("connection") == "close":
            self.close()
        return Answer(int(head[0].split()[1]), found, answer, time.perf_counter() - began)

    def close(self) -> None:
        """Drop the connection, whatever is on it."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
