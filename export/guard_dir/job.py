"""What a writer gets, and what it leaves behind: the contract between the main path and the routes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from guardpass.format.manifest import File
from guardpass.plan import Pass

from ..checkpoint.architecture import Architecture
from ..checkpoint.files import Array, Checkpoint
from ..checkpoint.tokenizer import CheckpointTokenizer
from ..prompt.build import Prompts
from .progress import Progress


@dataclass(frozen=True)
class Job:
    """One export: what is read, and the directory that is filled."""

    published: str  # the checkpoint's name
    checkpoint: Checkpoint
    arch: Architecture
    tokenizer: CheckpointTokenizer
    prompts: Prompts
    directory: Path
    progress: Progress


@dataclass(frozen=True)
class Written:
    """The model's files by name, and the scores [S, V'] that the checkpoint's own weights give each judged pass."""

    files: Mapping[str, File]
    reference: Sequence[Array]


class Writer(Protocol):
    """Writes the model of one engine at one precision."""

    @property
    def calibrated(self) -> bool:
        """Whether it corrects weights by the passes of calibration."""
        ...

    def write(self, job: Job, calibration: Sequence[Pass], judged: Sequence[Pass]) -> Written:
        """Write the model's files. Raises CheckpointError for weights that cannot be written exactly."""
        ...
