"""Tests; their models are tiny, so a core does more alone than several that wait for one another."""

import os

# Set before torch and numpy are imported, and inherited by the processes that tests start. Ten times less of a core.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# A worker of xdist has one core to itself, and so an engine that takes the cores there are takes one.
_worker = os.environ.get("PYTEST_XDIST_WORKER", "")
if _worker and hasattr(os, "sched_setaffinity"):
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_cores[int(_worker.removeprefix("gw")) % len(_cores)]})
