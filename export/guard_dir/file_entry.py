"""What the manifest says of a file."""

from pathlib import Path

from guardpass.format.integrity import sha256
from guardpass.format.manifest import File


def file_entry(path: Path) -> File:
    """The hash and the size of a file."""
    return File(sha256(path), path.stat().st_size)
