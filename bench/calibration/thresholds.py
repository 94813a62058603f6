"""Thresholds in guard.json. The file is replaced whole or left unchanged."""

import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from guardpass.errors import InputError
from guardpass.format.integrity import open_guard
from guardpass.format.manifest import MANIFEST, Manifest, Threshold
from guardpass.format.manifest_io import dumps, loads


def check_writable(directory: Path) -> None:
    """Raises InputError where guard.json cannot be replaced, so that nobody waits for scores in vain."""
    if not os.access(directory, os.W_OK):
        raise InputError(f"{directory} cannot be written; copy the guard to a place of your own, or use --dry-run")


def write_thresholds(directory: Path, manifest: Manifest, chosen: Mapping[str, Mapping[str, Threshold]]) -> Manifest:
    """Add thresholds, by mode and field, to the guard whose manifest this is; returns the new manifest.

    Raises InputError where the guard has changed since, or cannot be written; nothing is changed then.
    """
    modes = {
        name: replace(mode, thresholds=mode.thresholds | dict(chosen.get(name, {})))
        for name, mode in manifest.modes.items()
    }
    return _write(directory, manifest, replace(manifest, modes=modes))


def reset_thresholds(guard: str | os.PathLike[str], field: str | None = None) -> Manifest:
    """Remove all thresholds of a guard, or those of one field: it goes by argmax again. Returns the new manifest.

    Raises GuardError for a guard that is not intact, InputError where it has no such threshold or cannot be written;
    nothing is changed then.
    """
    directory = Path(guard)
    manifest = open_guard(directory, verify=False)
    fields = sorted({name for mode in manifest.modes.values() for name in mode.thresholds})
    if not fields or field not in (None, *fields):
        state = f"has thresholds of {fields}" if fields else "has no thresholds, it goes by argmax already"
        raise InputError(f"{directory} {state}; there is nothing {'' if field is None else f'of {field} '}to reset")
    check_writable(directory)
    modes = {
        name: replace(
            mode,
            thresholds={key: value for key, value in mode.thresholds.items() if field not in (None, key)},
        )
        for name, mode in manifest.modes.items()
    }
    return _write(directory, manifest, replace(manifest, modes=modes))


def _write(directory: Path, expected: Manifest, changed: Manifest) -> Manifest:
    data = dumps(changed)
    loads(data)  # what would not open again is not written
    if open_guard(directory, verify=False) != expected:
        raise InputError(f"{directory} was changed in the meantime, and is left as it is; run this again")
    # A file that a killed write leaves beside guard.json makes the guard unreadable. So the new file is written beside
    # the guard, and into it only where the guard is a mount of its own or its parent takes no files.
    real = directory.resolve()
    failure = ""
    for folder in (real.parent, real):
        try:
            _replace(folder / f".{real.name}.{MANIFEST}.partial-{secrets.token_hex(4)}", real / MANIFEST, data)
        except OSError as error:
            failure = f"cannot write {error.filename or real / MANIFEST}: {error.strerror}"
        else:
            return changed
    raise InputError(f"{failure}; {MANIFEST} is as it was")


def _replace(partial: Path, target: Path, data: bytes) -> None:
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(target, partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
