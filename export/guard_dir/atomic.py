"""A directory that is there whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from guardpass.errors import InputError


def check_target(out: Path, replaceable: str | None) -> None:
    """Raises InputError where `out` cannot become a new directory.

    replaceable: the file that a directory must hold to be replaced, so that a mistyped path costs no one a
    folder; None replaces nothing.
    """
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir():
        raise InputError(f"{out} cannot be made: {above} is not a folder; choose another place")
    if not out.is_symlink() and not out.exists():
        return
    if replaceable is None:
        raise InputError(f"{out} exists; choose another place (a guard can be replaced with --force)")
    if out.is_symlink() or not (out / replaceable).is_file():
        raise InputError(f"{out} exists and is no guard; --force replaces guards only, choose another --out")


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """A temporary sibling that becomes `out` when the block ends well, and vanishes when it does not.

    Folders above `out` that do not exist are made, and vanish with it. Raises InputError where it cannot be written.
    """
    out = out.absolute()
    absent = [folder for folder in out.parents if not folder.exists()]
    partial = out.with_name(f".{out.name}.partial-{secrets.token_hex(4)}")
    retired = partial.with_name(partial.name + ".old")
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in [*partial.iterdir(), partial]:
            _sync(path)
        _swap(partial, out, retired)
        _sync(out.parent)
    except OSError as error:
        where = error.filename or out
        raise InputError(f"cannot write {where}: {error.strerror}; nothing was exported") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if out.exists():
            shutil.rmtree(retired, ignore_errors=True)
        else:
            with suppress(OSError):  # one that someone else has written into stays
                for folder in absent:
                    folder.rmdir()


def _swap(partial: Path, out: Path, retired: Path) -> None:
    """No portable call swaps two folders: killed between the renames, the old one is left as `.old`."""
    if out.exists():
        out.rename(retired)
    try:
        partial.rename(out)
    except OSError:
        if retired.exists():
            retired.rename(out)
        raise


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows syncs no folders
        return
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
