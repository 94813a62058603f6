"""Properties of the CPU that engines depend on."""

import math
import os
import platform
from pathlib import Path


def usable_cores() -> int:
    """The physical cores that this process may use: its CPU affinity, limited by the quota of its cgroup (v2).

    Sibling hyperthreads count once, as they share the multipliers that limit a prefill.
    """
    try:
        cpus = os.sched_getaffinity(0)
    except AttributeError:  # not on macOS or Windows
        return os.cpu_count() or 1
    cores = {_read(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in cpus}
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    limit = math.ceil(int(quota) / int(period)) if quota.isdigit() and period.isdigit() else len(cores)
    return max(1, min(len(cores), limit))


def saturates() -> bool:
    """Whether int8 products may saturate: on an x86 CPU without VNNI, or with unknown features."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return "vnni" not in _read("/proc/cpuinfo")


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
