"""One server process: load behind an open port, serve, and on a signal stop in order."""

import asyncio
import math
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from ..errors import EngineError, GuardpassError, InputError
from .app import make_app
from .host import Host
from .keys import Keys
from .logs import log
from .metrics import Metrics
from .settings import Settings

_BACKLOG = 2048
# Seconds. Longer than clients and proxies keep a connection they do not use (httpx 5, AWS's load balancer 60), so that
# they close it first: a request that crosses the server's closing is lost.
_IDLE = 75
_PARENT = 0.5  # seconds between looks at whether the supervisor lives
_READINESS = 0.5  # seconds between looks at whether the guards are ready


def listen(settings: Settings) -> socket.socket:
    """The port, bound. Raises InputError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With its protocol named, or asyncio would leave Nagle's delay on: 40 ms an answer.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, settings.port))
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise InputError(f"cannot listen on {settings.host} port {settings.port}: {error.strerror}") from None
    bound.setblocking(False)
    return bound


def serve(settings: Settings, bound: socket.socket, *, orphaned: threading.Event | None = None) -> None:
    """Serve until a signal says otherwise (or `orphaned` is set).

    SIGTERM, SIGINT: /ready says no; after `notice` seconds nothing new is taken; what was accepted is answered, within
    `drain` seconds; a second signal ends at once. SIGHUP: reload. Raises what loading raises, EngineError where the
    drain took too long.
    """
    asyncio.run(_Server(settings, bound, orphaned).run())


class _Uvicorn(uvicorn.Server):
    """uvicorn, with signals left to us."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Server:
    def __init__(self, settings: Settings, bound: socket.socket, orphaned: threading.Event | None) -> None:
        self._settings, self._bound, self._orphaned = settings, bound, orphaned
        self._host, self._metrics = Host(settings), Metrics()
        config = uvicorn.Config(
            make_app(self._host, Keys(settings.api_key_file), self._metrics), log_config=None, access_log=False,
            lifespan="off", server_header=False, date_header=True, backlog=_BACKLOG,
            timeout_keep_alive=_IDLE, timeout_graceful_shutdown=math.ceil(settings.drain), ws="none",
        )  # fmt: skip
        self._uvicorn = _Uvicorn(config)
        self._stop = asyncio.Event()
        self._signals = 0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        serving = asyncio.create_task(self._uvicorn.serve(sockets=[self._bound]))
        loading = asyncio.create_task(asyncio.to_thread(self._host.load))
        watching = asyncio.create_task(self._watch_parent())
        telling = asyncio.create_task(self._tell_ready())
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait((serving, loading, stopping), return_when=asyncio.FIRST_COMPLETED)
        try:
            if loading.done() and not stopping.done():
                loading.result()
                address = self._bound.getsockname()
                log("info", "ready", host=address[0], port=address[1], guards=list(self._host.guards))
                await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                self._host.state = "draining"
                log("info", "draining", notice=self._settings.notice, drain=self._settings.drain)
                await asyncio.sleep(self._settings.notice)
        except GuardpassError as error:
            log("error", "cannot load", kind=error.kind, message=str(error))
            raise
        finally:
            watching.cancel()
            telling.cancel()
            closing = asyncio.create_task(asyncio.to_thread(self._host.close, self._settings.drain))
            self._uvicorn.should_exit = True
            await serving
            drained = await closing
            log("info", "stopped", drained=drained)
        if not drained:
            raise EngineError(f"requests were left after {self._settings.drain:g} s of draining; they got errors")

    def _signalled(self, number: int) -> None:
        self._signals += 1
        if self._signals > 1:
            log("warning", "a second signal, ending at once", signal=number)
            os._exit(128 + number)
        self._stop.set()

    def _reload(self) -> None:
        def reload() -> None:
            self._metrics.reloads.labels("taken" if self._host.reload() else "refused").inc()

        threading.Thread(target=reload, name="guardpass reload", daemon=True).start()

    async def _watch_parent(self) -> None:
        """A worker whose supervisor is gone stops as if it had been told to."""
        if self._orphaned is not None:
            while not self._orphaned.is_set():
                await asyncio.sleep(_PARENT)
            self._stop.set()

    async def _tell_ready(self) -> None:
        """The gauge of this worker, which others' answers to a scrape have in them."""
        while True:
            self._metrics.ready.set(self._host.readiness()[0])
            await asyncio.sleep(_READINESS)
