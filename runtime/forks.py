"""Fork safety: a forked process has none of its parent's other threads, and locks that they held stay locked.

The child has one thread and a copy of the memory. So it renews every lock, fails every request that waits for another
thread, and opens engines again at their first pass.
"""

import os
import threading
from concurrent.futures import Future
from typing import Any, Protocol
from weakref import WeakSet


class Forked(Protocol):
    """An object that needs repair in a forked child."""

    def after_fork(self) -> None:
        """Repair the object. It runs first in the child, and takes no lock of the parent."""


_REGISTERED: WeakSet[Forked] = WeakSet()


def renewed_in_child(thing: Forked) -> None:
    """Register an object: its `after_fork` runs in every process that is forked during its life."""
    _REGISTERED.add(thing)


def unheard(future: "Future[Any]") -> None:
    """In a child: renew the locks of a future and drop its waiters, which are threads of the parent."""
    vars(future).update(_condition=threading.Condition(), _waiters=[], _done_callbacks=[])


def leak(thing: object) -> None:
    """Keep an object past the end of the process, as its destructor would wait for missing threads."""
    import ctypes  # slow to import, and only children need it

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _renew() -> None:
    for thing in list(_REGISTERED):
        thing.after_fork()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_renew)
