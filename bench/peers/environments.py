"""Where a peer's python is, and how it gets there."""

import json
import shlex
import subprocess
import sys
import venv
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from guardpass.errors import InputError

from .errors import PeerError, PeerMissing
from .table import Peer, find
from .worker import last_lines

_RECORD = "guardpass-peer.json"  # the steps that went well, so that changed pins are installed anew


def python_of(peer: Peer, work: Path) -> Path:
    """The python that runs a peer. Raises PeerMissing where it is not set up in `work`, or lacks what it needs."""
    if not peer.steps:
        missing = [brings for module, brings in peer.needs.items() if find_spec(module) is None]
        if missing:
            command = shlex.join([sys.executable, "-m", "pip", "install", *missing])
            raise PeerMissing(f"{peer.name} is not installed beside guardpass", command)
        return Path(sys.executable)
    if not _is_done(_environment(peer, work), peer):
        raise PeerMissing(
            f"{peer.name} has no environment of these versions in {_environment(peer, work)}",
            f"guardpass bench setup-peer {peer.name}",
        )
    return _python(_environment(peer, work))


def setup_peer(name: str, work: Path, *, progress: Callable[[str], None] = lambda _line: None) -> Path:
    """Make the environment `work`/venvs/`name` with the versions that the table names; returns its python.

    Does nothing where it is there already, and goes on where it was interrupted. progress is told each command.
    Raises InputError for an unknown peer or one that runs in guardpass's own environment, and PeerError with the
    command that failed.
    """
    peer = find(name)
    if not peer.steps:
        raise InputError(
            f"{name} runs in guardpass's own environment; install {', '.join(peer.needs.values())} there instead"
        )
    folder = _environment(peer, work)
    if _is_done(folder, peer):
        return _python(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not _python(folder).exists():
        progress(f"{sys.executable} -m venv {folder}")
        venv.create(folder, with_pip=True)
    for step in peer.steps:
        options = ("--no-cache-dir",) if step[0] == "install" else ()
        command = [str(_python(folder)), "-m", "pip", "--disable-pip-version-check", step[0], *options, *step[1:]]
        progress(shlex.join(command))
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            shown = last_lines(done.stdout)
            raise PeerError(f"{name} cannot be installed; pip's last lines:\n{shown}", shlex.join(command))
    (folder / _RECORD).write_text(json.dumps(peer.steps))
    return _python(folder)


def _environment(peer: Peer, work: Path) -> Path:
    return work.absolute() / "venvs" / peer.name


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _is_done(folder: Path, peer: Peer) -> bool:
    try:
        return bool(json.loads((folder / _RECORD).read_text()) == [list(step) for step in peer.steps])
    except (OSError, ValueError):
        return False
