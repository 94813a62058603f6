"""What a route leaves behind: model files, and what of the checkpoint the manifest has to say."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from guardpass.integrity import sha256
from guardpass.manifest import File

Progress = Callable[[int, int], None]  # weights done, and in all


@dataclass(frozen=True)
class Written:
    """The files of a model, by name, and the model's sizes."""

    files: dict[str, File]
    architecture: str
    context: int  # positions the guard is good for
    vocab: int  # token ids are below this
    # Without it the graph ignores the mask, and maybe the positions: it fits passes that are one chain from 0 on.
    tree_mask: bool = True


def file_of(path: Path) -> File:
    """What the manifest says of a file."""
    return File(sha256(path), path.stat().st_size)


def counted(total: int, progress: Progress) -> Callable[[int], None]:
    """To be told weights as they pass; tells `progress` weights done and in all."""
    done = 0

    def advance(weights: int) -> None:
        nonlocal done
        done += weights
        progress(done, total)

    return advance
