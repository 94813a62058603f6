"""How a guard was opened, so that another process can open it again."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .engines.base import Engine
from .errors import EngineError, GuardError
from .format.integrity import open_guard
from .format.manifest import Manifest


@dataclass(frozen=True)
class Opening:
    """What `Guard.load` was given, and the manifest that it found. directory: absolute."""

    directory: Path
    manifest: Manifest
    verify: bool
    options: dict[str, Any]

    def prove(self) -> None:
        """Raises GuardError unless the same guard still is in the directory, intact."""
        if open_guard(self.directory, verify=self.verify) != self.manifest:
            raise GuardError(f"{self.directory} holds another guard than when it was opened; load it anew")

    def engine(self, opened: Callable[[], Engine]) -> Engine:
        """In a forked process: the engine that `opened` opens. Raises EngineError, GuardError."""
        if (self.options["device"] or self.manifest.engine.device) == "cuda":
            raise EngineError(
                "a GPU cannot be used by a process that was forked after it was; load the guard in the child, or start "
                "the process with spawn"
            )
        self.prove()
        return opened()
