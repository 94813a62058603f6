"""One server process: it opens the port, loads the guards, serves, and stops in order on a signal."""

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
from .logs import log, show
from .metrics import Metrics
from .settings import Settings

_BACKLOG = 2048
# Seconds. Clients and proxies close an idle connection earlier (httpx after 5, AWS's load balancer after 60): a request
# that crosses the server's closing would be lost.
_IDLE = 75
_PARENT = 0.5  # seconds between checks that the supervisor lives
_READINESS = 0.5  # seconds between updates of the gauge


def listen(settings: Settings) -> socket.socket:
    """Bind the port. Raises InputError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Without the protocol, asyncio leaves Nagle's delay on: 40 ms an answer.
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


def address_of(bound: socket.socket) -> str:
    """The URL of a bound port."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(settings: Settings, bound: socket.socket, *, orphaned: threading.Event | None = None) -> None:
    """Serve until a signal, or until `orphaned` is set.

    On SIGTERM or SIGINT, /ready says no. After `notice` seconds the server takes no more requests, and answers those it
    took within `drain` seconds. A second signal ends it at once. On SIGHUP it reloads the guards. Raises the errors of
    loading, and EngineError for a drain that takes too long.
    """
    asyncio.run(_Server(settings, bound, orphaned).run())


class _Uvicorn(uvicorn.Server):
    """uvicorn, without its signal handlers."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Server:
    def __init__(self, settings: Settings, bound: socket.socket, orphaned: threading.Event | None) -> None:
        self._settings, self._bound, self._orphaned = settings, bound, orphaned
        self._host, self._metrics = Host(settings), Metrics()
        config = uvicorn.Config(
            make_app(self._host, Keys(settings.api_key_file), self._metrics),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            date_header=True,
            backlog=_BACKLOG,
            timeout_keep_alive=_IDLE,
            timeout_graceful_shutdown=math.ceil(settings.drain),
            ws="none",
        )
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
        gauging = asyncio.create_task(self._gauge_readiness())
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait((serving, loading, stopping), return_when=asyncio.FIRST_COMPLETED)
        try:
            if loading.done() and not stopping.done():
                loading.result()
                address = self._bound.getsockname()
                log("info", "ready", host=address[0], port=address[1], guards=list(self._host.guards))
                if self._orphaned is None:  # with workers, the process that starts them says it once
                    names = ", ".join(self._host.guards)
                    show(f"serving {names} on {address_of(self._bound)}, press Ctrl-C to stop")
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
            gauging.cancel()
            closing = asyncio.create_task(asyncio.to_thread(self._host.close, self._settings.drain))
            self._uvicorn.should_exit = True
            await serving
            drained = await closing
            log("info", "stopped", drained=drained)
        if not drained:
            raise EngineError(
                f"requests were left after {self._settings.drain:g} s of draining, and got errors; raise --drain"
            )

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
        """Stop a worker whose supervisor is gone, as a signal does."""
        if self._orphaned is not None:
            while not self._orphaned.is_set():
                await asyncio.sleep(_PARENT)
            self._stop.set()

    async def _gauge_readiness(self) -> None:
        """Keep this worker's gauge up to date: any worker may answer a scrape, with the gauges of all."""
        while True:
            self._metrics.ready.set(self._host.readiness()[0])
            await asyncio.sleep(_READINESS)
