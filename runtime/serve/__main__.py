"""A worker: `python -m guardpass.serve FD` reads its settings from a line of stdin, which then stays open."""

import json
import socket
import sys
import threading

from ..errors import GuardpassError
from .server import serve
from .settings import Settings


def main() -> int:
    """Serve until a signal, or until stdin ends; returns the exit code."""
    settings = Settings.from_json(json.loads(sys.stdin.readline()))
    bound = socket.socket(fileno=int(sys.argv[1]))
    bound.setblocking(False)
    orphaned = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        orphaned.set()

    threading.Thread(target=wait, daemon=True).start()
    try:
        serve(settings, bound, orphaned=orphaned)
    except GuardpassError as error:
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
