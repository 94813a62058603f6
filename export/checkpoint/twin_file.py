"""twin.json: what `guardpass twin` knows of the published checkpoint and its other files do not tell.

Only twins have this file, so a real checkpoint, fine-tuned or not, is never taken for the one it was made from.
"""

import json
from dataclasses import dataclass

from guardpass.errors import CheckpointError
from guardpass.format.codec import decode, encode

from .files import TWIN, Folder


@dataclass(frozen=True)
class TwinFile:
    """The options that an export of the twin needs."""

    family: str | None = None
    date: str | None = None  # YYYY-MM-DD, for a chat template that prints today's

    def write(self, folder: Folder) -> None:
        """Write the file, if there is anything to tell."""
        if self != TwinFile():
            (folder.directory / TWIN).write_text(json.dumps(encode(self), indent=2), encoding="utf-8")


def read_twin_file(source: Folder) -> TwinFile:
    """The file's content; empty for a checkpoint without one. Raises CheckpointError."""
    if not source.has(TWIN):
        return TwinFile()
    try:
        return decode(TwinFile, source.json(TWIN))
    except ValueError as error:
        raise CheckpointError(f"{TWIN} is not as `guardpass twin` writes it: {error}; write the twin again") from None
