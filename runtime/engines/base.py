"""The protocols of engines. An engine computes the scores of a pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..format.manifest import Device, Manifest
from ..plan import Pass
from ..stop import StopToken


@dataclass(frozen=True)
class EngineOptions:
    """How an engine opens a model.

    max_tokens: tokens of the longest pass, prefix included.
    in_memory: read the weights instead of mapping them.
    """

    threads: int | None
    max_tokens: int
    device: Device
    in_memory: bool = False


class Engine(Protocol):
    """Computes the scores of a pass."""

    def run(self, request: Pass) -> npt.NDArray[np.float32]:
        """Scores [1, S, V'] of every verdict token at every slot. Raises EngineError."""


@runtime_checkable
class Stoppable(Protocol):
    """An engine that can abort a running pass."""

    def run_until(self, request: Pass, stop: StopToken) -> npt.NDArray[np.float32]:
        """Like `run`; raises the stop reason soon after a stop was requested."""


@runtime_checkable
class Batching(Protocol):
    """An engine that gains from batches."""

    requests: int  # limit of one batch
    tokens: int  # limit of one batch

    def run_batch(self, requests: Sequence[Pass]) -> list[npt.NDArray[np.float32]]:
        """Scores [1, S, V'] of each pass. A batch changes them by rounding alone. Raises EngineError."""

    def alike(self, tokens: int) -> int | None:
        """The batch key of a request with about so many tokens; None if it gains nothing from a batch."""


@dataclass(frozen=True)
class Grown:
    """Scores [1, S, V'] of a growing text, and the number of span tokens that were reused."""

    scores: npt.NDArray[np.float32]
    reused: int


class SessionEngine(Protocol):
    """An engine for one growing text. It reuses the keys and values of the unchanged beginning."""

    def run(self, request: Pass) -> Grown:
        """Run the tokens that changed. Raises EngineError."""

    def close(self) -> None:
        """Free its memory."""


@runtime_checkable
class Incremental(Protocol):
    """An engine that supports sessions."""

    def session(self) -> SessionEngine:
        """Begin a session. Raises EngineError."""


class Opener(Protocol):
    """The class of an engine."""

    def open(self, model: Path, manifest: Manifest, options: EngineOptions) -> Engine:
        """Open a model. Raises GuardError for an unsafe file, MissingDependency, EngineError, InputError."""


def run_pass(engine: Engine, request: Pass, stop: StopToken | None) -> npt.NDArray[np.float32]:
    """Scores of a pass. A stop aborts it while it runs if the engine can, else before it runs."""
    if stop is None:
        return engine.run(request)
    stop.check()
    return engine.run_until(request, stop) if isinstance(engine, Stoppable) else engine.run(request)
