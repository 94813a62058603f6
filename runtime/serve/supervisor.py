"""`--workers N`: processes that share one port; the supervisor replaces one that dies."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import multiprocess

from ..errors import GuardError, InputError
from .logs import log
from .settings import Settings

_POLL = 0.05  # seconds
_BACKOFF = (0.5, 30.0)  # seconds before the restart of a worker that dies young: at first, at most
_YOUNG = 10.0
_FRESH = 60.0
_GRACE = 5.0  # beyond notice and drain, before workers are killed


@dataclass
class _Worker:
    process: "subprocess.Popen[bytes]"
    since: float


class Supervisor:
    """Starts workers, forwards signals, and replaces workers that die; their clients see the connection break."""

    def __init__(self, settings: Settings, bound: socket.socket) -> None:
        self._settings, self._bound = settings, bound
        self._workers: list[_Worker] = []
        self._due: list[float] = []  # start times of workers
        self._backoff = _BACKOFF[0]
        self._signals = 0

    def run(self) -> int:
        """Run until a signal; returns the exit code."""
        with tempfile.TemporaryDirectory(prefix="guardpass-metrics-") as folder:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
            handlers: dict[signal.Signals, Callable[[], None]] = {
                signal.SIGTERM: self._stop,
                signal.SIGINT: self._stop,
                signal.SIGHUP: self._reload,
            }
            for number, act in handlers.items():
                signal.signal(number, lambda *_, act=act: act())
            self._due = [0.0] * self._settings.workers
            started = time.monotonic()
            self._fresh = True
            while not self._signals:
                self._start_due()
                code = self._bury()
                # A guard that does not load at the start never will; later, it may be amid a copy.
                if code in (InputError.exit_code, GuardError.exit_code) and self._fresh and not self._workers:
                    return code
                self._fresh &= time.monotonic() - started < _FRESH
                time.sleep(_POLL)
            return self._wait()

    def _start_due(self) -> None:
        now = time.monotonic()
        for due in [due for due in self._due if due <= now]:
            self._due.remove(due)
            command = [sys.executable, "-m", "guardpass.serve", str(self._bound.fileno())]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[self._bound.fileno()])
            assert process.stdin is not None
            # Left open: the worker reads its end when the supervisor is gone.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(self._settings.to_json()).encode() + b"\n")
                process.stdin.flush()
            self._workers.append(_Worker(process, now))
            log("info", "worker started", pid=process.pid)

    def _bury(self) -> int | None:
        """Remove dead workers and schedule new ones; returns the exit code of a dead one."""
        code = None
        for worker in [worker for worker in self._workers if worker.process.poll() is not None]:
            self._workers.remove(worker)
            code, lived = worker.process.returncode, time.monotonic() - worker.since
            multiprocess.mark_process_dead(worker.process.pid)  # type: ignore[no-untyped-call]
            self._backoff = min(self._backoff * 2, _BACKOFF[1]) if lived < _YOUNG else _BACKOFF[0]
            wait = self._backoff if lived < _YOUNG else 0.0
            self._due.append(time.monotonic() + wait)
            log("error", "worker died", pid=worker.process.pid, code=code, restart_in=wait)
        return code

    def _stop(self) -> None:
        self._signals += 1
        for worker in self._workers:
            with contextlib.suppress(ProcessLookupError):
                worker.process.send_signal(signal.SIGTERM if self._signals == 1 else signal.SIGKILL)
        if self._signals > 1:
            os._exit(128 + signal.SIGTERM)

    def _reload(self) -> None:
        for worker in self._workers:
            worker.process.send_signal(signal.SIGHUP)

    def _wait(self) -> int:
        """Wait until the workers have drained; returns the worst exit code."""
        end = time.monotonic() + self._settings.notice + self._settings.drain + _GRACE
        codes = []
        for worker in self._workers:
            try:
                code = worker.process.wait(max(0.0, end - time.monotonic()))
                # A worker that still starts dies of the signal itself: it has accepted no request.
                codes.append(0 if code == -signal.SIGTERM else code)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                codes.append(1)
        return max((abs(code) for code in codes), default=0)
