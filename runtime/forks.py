"""What a forked process cannot use of its parent: other threads, locks that they held, and engines that have threads.

The child goes on with its one thread and a copy of the memory. So in it every lock is made anew, what waits for another
thread is failed, and engines are opened again when they are needed.
"""

import os
import threading
from concurrent.futures import Future
from typing import Any, Protocol
from weakref import WeakSet


class Forked(Protocol):
    """What has to be put in order in a child."""

    def after_fork(self) -> None:
        """In the child, before anything else runs there; takes no lock that it has not made."""


_KNOWN: WeakSet[Forked] = WeakSet()


def renewed_in_child(thing: Forked) -> None:
    """Call `after_fork` of a thing in every process that is forked while the thing lives."""
    _KNOWN.add(thing)


def unheard(future: "Future[Any]") -> None:
    """In a child: give a future locks of its own, and nobody to tell of its result: who waited is not there."""
    vars(future).update(_condition=threading.Condition(), _waiters=[], _done_callbacks=[])


def leak(thing: object) -> None:
    """Keep a thing until the process ends, and longer: its end would wait for threads that are not there."""
    import ctypes  # slow, and needed in a child alone

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _renew() -> None:
    for thing in list(_KNOWN):
        thing.after_fork()


if hasattr(os, "register_at_fork"):  # Windows forks nothing
    os.register_at_fork(after_in_child=_renew)
