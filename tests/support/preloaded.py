"""A server as gunicorn runs it with --preload: guards opened and used in the parent, workers forked, one port.

python -m tests.support.preloaded GUARD WORKERS: prints the port and the workers' ids. A worker that gets SIGUSR1 forks
a child while it serves, which judges a text by itself and prints its score. All end when standard input does.
"""

import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Any

import uvicorn

from guardpass import Guard, GuardpassError
from guardpass.serve.app import make_app
from guardpass.serve.host import Host
from guardpass.serve.keys import Keys
from guardpass.serve.metrics import Metrics
from guardpass.serve.server import listen
from guardpass.serve.settings import Settings


def _work(guard: Guard, bound: Any) -> None:
    app = make_app(Host(Settings(("guard",)), {"guard": guard}, "ready"), Keys(None), Metrics())

    def fork(*_: object) -> None:
        pid = os.fork()
        if not pid:
            found = "hangs"
            with suppress(BaseException):
                found = str(guard.submit("a child of a worker", timeout=30.0).result(31.0).score)
            os.write(1, f"{found}\n".encode())
            os._exit(0)

    signal.signal(signal.SIGUSR1, fork)
    signal.signal(signal.SIGCHLD, lambda *_: os.waitpid(-1, os.WNOHANG))
    uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")).run(sockets=[bound])


def _main(path: str, workers: int) -> None:
    guard, bound = Guard.load(path, threads=1), listen(Settings(("guard",), port=0))
    guard.submit("warm up").result(60.0)
    stop = threading.Event()

    def busy() -> None:  # while it is forked
        while not stop.is_set():
            with suppress(GuardpassError):
                guard.submit("warm up " * 20).result(60.0)

    thread = threading.Thread(target=busy)
    thread.start()
    pids = []
    for _ in range(workers):
        pids.append(os.fork())
        if not pids[-1]:
            stop.set()
            _work(guard, bound)
            sys.exit(0)
    stop.set()
    thread.join()
    print(bound.getsockname()[1], *pids, flush=True)
    sys.stdin.read()
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    # uvicorn raises the signal again when it has drained.
    sys.exit(0 if all(os.waitpid(pid, 0)[1] == signal.SIGTERM for pid in pids) else 1)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
