"""What an engine is: it turns a pass into scores."""

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
    """How a model is opened: for passes of up to `max_tokens`, prefix included. in_memory: read it, do not map it."""

    threads: int | None
    max_tokens: int
    device: Device
    in_memory: bool = False


class Engine(Protocol):
    """Anything that turns a pass into scores."""

    def run(self, request: Pass) -> npt.NDArray[np.float32]:
        """Scores [1, S, V'] of every label at every slot. Raises EngineError."""


@runtime_checkable
class Stoppable(Protocol):
    """An engine whose passes can be ended while they run."""

    def run_until(self, request: Pass, stop: StopToken) -> npt.NDArray[np.float32]:
        """`run`; raises the reason of `stop` soon after it was requested."""


@runtime_checkable
class Batching(Protocol):
    """An engine that gains from running passes together."""

    requests: int  # at most, of those run together
    tokens: int  # at most, of all of them

    def run_batch(self, requests: Sequence[Pass]) -> list[npt.NDArray[np.float32]]:
        """Scores [1, S, V'] of each pass; its company changes them by rounding alone. Raises EngineError."""

    def alike(self, tokens: int) -> int | None:
        """The key that requests of about so many tokens share where they gain from each other; None: they do not."""


@dataclass(frozen=True)
class Grown:
    """Scores [1, S, V'] of a text that grew, and how many tokens of its span were not run again."""

    scores: npt.NDArray[np.float32]
    reused: int


class SessionEngine(Protocol):
    """An engine for one text that grows, which keeps keys and values of what did not change."""

    def run(self, request: Pass) -> Grown:
        """Raises EngineError."""

    def close(self) -> None:
        """Give its memory back."""


@runtime_checkable
class Incremental(Protocol):
    """An engine that can make engines for texts that grow."""

    def session(self) -> SessionEngine:
        """Raises EngineError."""


class Opener(Protocol):
    """The class of an engine."""

    def open(self, model: Path, manifest: Manifest, options: EngineOptions) -> Engine:
        """Raises GuardError for a file that cannot be opened safely, MissingDependency, EngineError, InputError."""


def run_pass(engine: Engine, request: Pass, stop: StopToken | None) -> npt.NDArray[np.float32]:
    """Scores of a pass that may be stopped: while it runs where the engine allows, else before it runs."""
    if stop is None:
        return engine.run(request)
    stop.check()
    return engine.run_until(request, stop) if isinstance(engine, Stoppable) else engine.run(request)
