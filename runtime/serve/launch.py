"""From settings to a running server, in this process or in workers."""

from dataclasses import replace

from ..engines.hardware import usable_cores
from .keys import Keys
from .server import listen, serve
from .settings import Settings
from .supervisor import Supervisor


def launch(settings: Settings) -> int:
    """Serve until told to stop; the exit code. Raises GuardpassError for what can be seen before anything starts."""
    Keys(settings.api_key_file)  # read here too, so that a bad file is told at once
    with listen(settings) as bound:
        if settings.workers == 1:
            serve(settings, bound)
            return 0
        shared = settings.threads or max(1, usable_cores() // settings.workers)
        return Supervisor(replace(settings, threads=shared), bound).run()
