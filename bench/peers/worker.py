"""A peer's process, from outside: start it, ask it, end it."""

import contextlib
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from . import protocol
from .errors import PeerError
from .protocol import Answer, Question

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TBB_NUM_THREADS")
_PIPE = 1 << 20  # bytes: a backlog of questions must not stop who sends them at their times
_SHOWN = 8  # lines of a peer's own messages that an error repeats


class Worker:
    """An adapter in a process of its own, started on entering the context, ended on leaving it.

    adapter: a file as `protocol` describes. options: what its `load` is given; "threads" is added. python: of the
    peer's environment. affinity: the cores it may use. environment: variables added to ours. limit_s: seconds that
    a load or an answer may take.

    Entering raises PeerError where the peer cannot be started; so do the methods where it fails. After an error that
    the adapter answered, the worker can be asked again; after any other it is ended.

    load_s: seconds to open the model. ready_s and first_verdict_s: from the start of the process to when it was
    ready, and to the end of its first answer (None before it). versions: of the peer's packages.
    """

    load_s: float
    ready_s: float
    first_verdict_s: float | None = None
    versions: dict[str, str]

    def __init__(
        self,
        adapter: Path,
        options: Mapping[str, Any],
        *,
        threads: int,
        python: Path | None = None,
        affinity: Sequence[int] | None = None,
        environment: Mapping[str, str] | None = None,
        limit_s: float = 1800,
    ) -> None:
        self._command = [str(python or sys.executable), "-P", protocol.__file__, str(adapter)]
        self._options, self._affinity = {**options, "threads": threads}, affinity and list(affinity)
        # A home or a hub is nothing that a measurement may depend on.
        fixed = {name: str(threads) for name in _THREADS} | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        self._environment = {**os.environ, **fixed, **(environment or {})}
        self._limit, self._buffer = limit_s, bytearray()

    @property
    def command(self) -> str:
        """What is run, with its first line of input, as a shell takes it."""
        hello = json.dumps({"options": self._options, "affinity": self._affinity})
        return f"echo {shlex.quote(hello)} | {shlex.join(self._command)}"

    def __enter__(self) -> Self:
        self._errors = tempfile.TemporaryFile()
        started = time.perf_counter()
        try:
            # A session of its own, so that what the peer starts can be ended with it.
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=self._environment,
                start_new_session=True,
                bufsize=0,
                pipesize=_PIPE,
            )
        except OSError as error:
            self._errors.close()
            raise PeerError(f"cannot start {self._command[0]}: {error.strerror}", self.command) from None
        self._started = started
        try:
            self._write({"options": self._options, "affinity": self._affinity})
            ready = self._read("ready")["ready"]
        except BaseException:
            self.kill()
            raise
        self.ready_s = time.perf_counter() - started
        self.load_s, self.versions = ready["load_s"], ready["versions"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Answers to questions that are all at hand at once."""
        self._write({"ask": list(questions)})
        return self._answers()

    def send(self, question: Question) -> None:
        """Ask, and do not wait; one thread may send while another receives."""
        self._write({"ask": [question]})

    def receive(self) -> Answer:
        """The answer to the earliest question sent and not yet answered."""
        (answer,) = self._answers()
        return answer

    def memory(self) -> tuple[float, float]:
        """Megabytes resident now, and at the peak; of the peer and of what it started."""
        self._write({"memory": True})
        found = self._read("resident_mb")
        return found["resident_mb"], found["peak_mb"]

    def close(self) -> None:
        """Let the peer end by itself; kill it where it does not."""
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)
        self.kill()

    def kill(self) -> None:
        """End the peer and what it started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()

    def _answers(self) -> list[Answer]:
        answers: list[Answer] = self._read("answers")["answers"]
        if answers and self.first_verdict_s is None:
            self.first_verdict_s = answers[0]["ended"] - self._started
        return answers

    def _write(self, value: dict[str, Any]) -> None:
        data = memoryview(json.dumps(value).encode() + b"\n")
        assert self._process.stdin
        try:
            while data:
                data = data[self._process.stdin.write(data) :]
        except (OSError, ValueError):
            raise self._death("it no longer reads") from None

    def _read(self, key: str) -> dict[str, Any]:
        """The next line, which holds `key`."""
        line = self._line()
        try:
            found: dict[str, Any] = json.loads(line)
            error = found.get("error")
        except (ValueError, AttributeError):
            found, error = {}, None
        if error is not None and key == "ready":
            raise self._death(f"it cannot load: {error}")
        if error is not None:
            raise PeerError(f"{self._name()} failed: {error}", self.command)
        if key not in found:
            raise self._death(f"it said {line[:80]!r}, expected {key!r}")
        return found

    def _line(self) -> bytes:
        end = time.monotonic() + self._limit
        assert self._process.stdout
        if self._process.stdout.closed:
            raise self._death("it is closed")
        while b"\n" not in self._buffer:
            if not select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
                raise self._death(f"it said nothing in {self._limit:g} s")
            more = os.read(self._process.stdout.fileno(), 1 << 16)
            if not more:
                raise self._death("it ended")
            self._buffer += more
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer[:] = rest
        return line

    def _death(self, what: str) -> PeerError:
        """The error for a peer that cannot be used any more; it is ended."""
        if self._errors.closed:
            return PeerError(f"{self._name()}: it was ended before; start another worker", self.command)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        code = self._process.poll()
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 10_000))
        shown = last_lines(self._errors.read())
        self.kill()
        ended = "" if code is None else f" (exit code {code})"
        return PeerError(f"{self._name()}: {what}{ended}; its last lines:\n{shown}", self.command)

    def _name(self) -> str:
        return Path(self._command[-1]).stem


def last_lines(output: bytes) -> str:
    """The end of what a process said, indented, for an error."""
    lines = output.decode(errors="replace").strip().splitlines()[-_SHOWN:]
    return "\n".join(f"  {line}" for line in lines or ["(nothing)"])
