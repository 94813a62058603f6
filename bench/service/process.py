"""A `guardpass serve` in a process of its own."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .client import Answer, Connection

_START = 600.0  # seconds a guard may take to load


@dataclass
class Served:
    """A server that runs: its port, its process, its log."""

    port: int
    process: "subprocess.Popen[bytes]"
    log_file: Path

    def ask(self, path: str, body: Any = None, **options: Any) -> Answer:
        """One request on a connection of its own."""

        async def once() -> Answer:
            connection = Connection(self.port)
            try:
                return await connection.ask(path, body, **options)
            finally:
                connection.close()

        return asyncio.run(once())

    def log(self) -> list[dict[str, Any]]:
        """The lines of the log so far."""
        return [json.loads(line) for line in self.log_file.read_text().splitlines() if line.startswith("{")]

    def memory(self) -> int:
        """Resident bytes, children included."""
        pids = [self.process.pid, *self.workers()]
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * os.sysconf("SC_PAGE_SIZE")

    def workers(self) -> list[int]:
        """Process ids of the children (Linux)."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def stop(self, timeout: float = 60.0) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


@contextmanager
def served(guards: Sequence[Path | str], *options: str, ready: bool = True) -> Iterator[Served]:
    """Start a server on a free port of the loopback; it is gone at the end."""
    with tempfile.TemporaryDirectory(prefix="guardpass-serve-") as folder:
        log_file = Path(folder) / "log"
        command = [sys.executable, "-m", "guardpass", "serve", *map(str, guards), "--port", "0", *options]
        with log_file.open("wb") as log:
            process = subprocess.Popen(command, stderr=log, stdout=log)
        try:
            yield _wait(process, log_file) if ready else Served(0, process, log_file)
        finally:
            if process.poll() is None:
                process.kill()  # its workers see the end of their stdin
                process.wait()


def _wait(process: "subprocess.Popen[bytes]", log_file: Path) -> Served:
    """Until the log says ready."""
    end = time.monotonic() + _START
    while time.monotonic() < end and process.poll() is None:
        found = Served(0, process, log_file)
        for line in found.log():
            if line["event"] == "ready":
                found.port = line["port"]
                return found
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start: {log_file.read_text()[-2000:]}")
