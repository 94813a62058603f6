"""Starts a server from its settings, in this process or in workers."""

from dataclasses import replace

from ..engines.hardware import usable_cores
from .keys import Keys
from .logs import show
from .server import address_of, listen, serve
from .settings import Settings
from .supervisor import Supervisor


def launch(settings: Settings) -> int:
    """Serve until a signal; returns the exit code. Raises GuardpassError for faults that show before the start."""
    Keys(settings.api_key_file)  # read here too, so that a bad file fails before workers start
    with listen(settings) as bound:
        if settings.workers == 1:
            serve(settings, bound)
            return 0
        show(f"{settings.workers} workers start on {address_of(bound)}, press Ctrl-C to stop")
        shared = settings.threads or max(1, usable_cores() // settings.workers)
        return Supervisor(replace(settings, threads=shared), bound).run()
