"""Verifies a guard directory before any other parser opens a file in it."""

import hashlib
import os
import stat
from pathlib import Path

from ..errors import EngineError, GuardError
from .manifest import MANIFEST, Manifest
from .manifest_io import loads

# Smaller files are hashed even with verify=False: the graph and the tokenizer define the computation.
_ALWAYS_HASHED = 64 << 20
_MANIFEST_LIMIT = 64 << 20


def open_guard(directory: Path, *, verify: bool = True) -> Manifest:
    """Read guard.json and compare every file with it: no file missing, none extra, no links, the same bytes.

    With verify=False, files over 64 MiB are compared by size alone. Raises GuardError.
    """
    names = _regular_files(directory)
    if MANIFEST not in names:
        raise GuardError(f"{directory} has no {MANIFEST}, so it is not a guard; make one with `guardpass export`")
    if names[MANIFEST] > _MANIFEST_LIMIT:
        raise GuardError(f"{MANIFEST} has {names[MANIFEST]} bytes, more than any guard needs; export the guard again")
    manifest = loads(_read(directory / MANIFEST))
    missing, extra = manifest.files.keys() - names.keys(), names.keys() - manifest.files.keys() - {MANIFEST}
    if missing or extra:
        raise GuardError(
            f"{directory} does not hold the files {MANIFEST} lists: missing {sorted(missing)}, "
            f"not listed {sorted(extra)}; copy the guard again, or remove the files not listed"
        )
    for name, expected in manifest.files.items():
        if names[name] != expected.size:
            raise GuardError(f"{name} has {names[name]} bytes, {MANIFEST} says {expected.size}; copy the guard again")
        if verify or expected.size < _ALWAYS_HASHED:
            digest = sha256(directory / name)
            if digest != expected.sha256:
                raise GuardError(f"{name} has sha256 {digest}, {MANIFEST} says {expected.sha256}; copy the guard again")
    return manifest


class Mapped:
    """A file that an engine has mapped. A write to the file changes the scores of the engine."""

    def __init__(self, path: Path) -> None:
        # By descriptor: a file that is replaced or removed by name stays mapped unchanged.
        self._file = path.open("rb")
        self._name = path.name
        self._opened = self._state()

    def check(self) -> None:
        """Raises EngineError if the file was written to. Call it after a pass, so that it covers the pass."""
        if self._state() != self._opened:
            raise EngineError(
                f"{self._name} was changed under the running guard; load the guard again (replace guards by renaming, "
                "or load them with in_memory=True)"
            )

    def _state(self) -> tuple[int, int]:
        info = os.fstat(self._file.fileno())
        return info.st_size, info.st_mtime_ns


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex. Raises GuardError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise GuardError(f"cannot read {path}: {error.strerror}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise GuardError(f"cannot read {path}: {error.strerror}") from None


def _regular_files(directory: Path) -> dict[str, int]:
    """Sizes by name. Links are refused: a target may lie outside the directory, or change after verification."""
    sizes = {}
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                info = entry.stat(follow_symlinks=False)
                if not stat.S_ISREG(info.st_mode):
                    raise GuardError(
                        f"{entry.name} in {directory} is a link, folder or device; a guard holds plain files only "
                        "(copy a linked guard with `cp -rL`)"
                    )
                sizes[entry.name] = info.st_size
    except OSError as error:
        raise GuardError(f"cannot open guard {directory}: {error.strerror}") from None
    except ValueError as error:  # a path with a NUL
        raise GuardError(f"cannot open guard {str(directory)!r}: {error}") from None
    return sizes
