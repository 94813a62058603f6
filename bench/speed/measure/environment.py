"""Where a row was measured: the machine, the checkout and the versions."""

import os
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..report.schema import Environment

# Instruction sets that kernels of these engines choose by, as Linux names them: x86, then Arm.
# fmt: off
_FLAGS = (
    "avx2", "fma", "f16c", "avx_vnni", "avx_vnni_int8", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "asimddp", "i8mm", "bf16", "fphp", "sve", "sve2", "svei8mm", "sme",
)
# fmt: on
_CPUINFO = Path("/proc/cpuinfo")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def environment(versions: Mapping[str, str]) -> Environment:
    """The environment of this moment. versions: package to version, of the measured process."""
    info = cpuinfo(_read(_CPUINFO))
    cores = os.cpu_count() or 1
    return Environment(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit(Path(__file__).resolve()),
        cpu=_model(info),
        flags=_flags(info),
        memory_gb=_memory(),
        cores=cores,
        # macOS and Windows bind no process to cores.
        affinity=tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else tuple(range(cores)),
        governor=_read(_GOVERNOR).strip(),
        python=platform.python_version(),
        versions=dict(versions),
    )


def here(*packages: str) -> Environment:
    """The environment of this process, with the versions of those of the packages that are installed."""
    versions = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return environment(versions)


def cpuinfo(text: str) -> dict[str, str]:
    """The fields of /proc/cpuinfo's first processor; empty where there are none."""
    pairs = (line.partition(":") for line in text.strip().partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def commit(file: Path) -> str:
    """The commit of the checkout that tracks `file`, with "+" where files of it were changed; "" for no checkout."""
    git = ["git", "-C", str(file.parent)]
    try:
        # A package installed within another project's folder is not that project's.
        subprocess.run([*git, "ls-files", "--error-unmatch", file.name], check=True, capture_output=True)
        command = [*git, "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _model(info: Mapping[str, str]) -> str:
    parts = (("implementer", "CPU implementer"), ("part", "CPU part"))
    arm = [f"{name} {info[key]}" for name, key in parts if key in info]
    name = info.get("model name") or " ".join([platform.machine(), *arm] if arm else [])
    return name or platform.processor() or platform.machine()


def _flags(info: Mapping[str, str]) -> tuple[str, ...]:
    has = (info.get("flags") or info.get("Features") or "").split()
    return tuple(flag for flag in _FLAGS if flag in has)


def _memory() -> float:
    """GB, to a tenth; 0 where the system does not tell."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 0.0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
