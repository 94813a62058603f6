"""A peer's own files, made from the checkpoint by a command, once."""

import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import guardpass.export
from guardpass.export.checkpoint.files import Checkpoint
from guardpass.export.guard_dir.atomic import new_directory

from .environments import python_of
from .errors import PeerError
from .table import Files, Peer, Setting
from .worker import last_lines

_RECORD = "made.json"


@dataclass(frozen=True)
class Made:
    """What an adapter opens. convert_s: seconds of the making; None where it is the checkpoint itself."""

    path: Path
    mb: float
    convert_s: float | None


def prepare(peer: Peer, setting: Setting, checkpoint: Path, work: Path) -> Made:
    """The files of a setting, in `work`/files; made where they are not there, or of another checkpoint or command.

    Raises PeerMissing, CheckpointError, and PeerError with the command that failed.
    """
    checkpoint = checkpoint.absolute()
    source, files = Checkpoint(checkpoint), setting.files
    if files is None:
        return Made(checkpoint, sum(path.stat().st_size for path in source.files()) / 1e6, None)
    python = python_of(peer, work)
    folder = work.absolute() / "files" / f"{checkpoint.name}-{files.name}"
    key = _key(source, files)
    if (known := _record(folder)).get("key") != key:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with new_directory(folder) as partial:
            seconds = _make(files, python, checkpoint, partial, folder)
            size = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
            known = {"key": key, "convert_s": seconds, "mb": size / 1e6}
            (partial / _RECORD).write_text(json.dumps(known))
    return Made(folder / files.model, known["mb"], known["convert_s"])


def _make(files: Files, python: Path, checkpoint: Path, out: Path, named: Path) -> float:
    """Seconds that the command took; what it fills is called `named` when it is there."""
    (package,) = guardpass.export.__path__
    places = {
        "own": sys.executable,
        "python": python,
        "scripts": Path(__file__).parent / "converters",
        "texts": Path(package) / "gate" / "texts" / "calibration.jsonl",
        "checkpoint": checkpoint,
        "out": out,
    }
    command = [part.format(**places) for part in files.command]
    start = time.perf_counter()
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode:
        raise PeerError(
            f"{files.name} cannot be made of {checkpoint.name} (exit code {done.returncode}); the last lines:\n"
            + last_lines(done.stdout),
            shlex.join(command).replace(str(out), str(named)),
        )
    return time.perf_counter() - start


def _key(source: Checkpoint, files: Files) -> str:
    """Changes with the checkpoint and with the command."""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in source.files()]
    return hashlib.sha256(json.dumps([stats, files.command, files.model]).encode()).hexdigest()


def _record(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / _RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return found
