"""guardpass-kernels: the whole pass in native code, on weights that are used where they lie in the file."""

from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ..errors import Closed, EngineError, GuardError, MissingDependency
from ..format.codec import encode
from ..format.integrity import Mapped
from ..format.manifest import Manifest
from ..format.packed import open_tensors
from ..format.packed_rules import check
from ..plan import Pass
from ..stop import StopToken
from .base import EngineOptions, Grown
from .hardware import usable_cores


def library() -> ModuleType:
    """The module guardpass_kernels. Raises MissingDependency."""
    try:
        import guardpass_kernels
    except ImportError as error:
        raise MissingDependency(
            f"guardpass-kernels is not installed ({error}); pip install ./kernels of guardpass's repository builds it, "
            "or export to the engine onnx"
        ) from None
    module: ModuleType = guardpass_kernels
    return module


def fits() -> bool:
    """Whether the kernels are installed, and are more here than the portable ones. Raises EngineError."""
    if find_spec("guardpass_kernels") is None:
        return False
    try:
        level: str = library().level()
    except ValueError as error:  # GUARDPASS_KERNELS_LEVEL asks for what this CPU lacks
        raise EngineError(f"guardpass-kernels cannot run here: {error}") from None
    return level != "portable"


class NativeEngine:
    """Runs model.packed. Passes may run side by side; a score does not depend on threads or on what runs beside it."""

    def __init__(
        self, model: Path, manifest: Manifest, *, threads: int | None, max_tokens: int, in_memory: bool = False
    ) -> None:
        """max_tokens: of the longest pass of a session. in_memory: read the weights, which are else mapped.

        Raises GuardError for a file that lies, MissingDependency, EngineError.
        """
        try:
            self._mapped = None if in_memory else Mapped(model)
            header, tensors = open_tensors(model, in_memory=in_memory)
            config = check(header, tensors, manifest)
        except (ValueError, RecursionError) as error:
            raise GuardError(f"{model.name} cannot be opened safely: {error}; export the guard again") from None
        except OSError as error:
            raise GuardError(f"cannot read {model.name}: {error.strerror}") from None
        self._kernels = library()
        try:
            self._model = self._kernels.Model(encode(config), tensors, threads or usable_cores())
        except Exception as error:  # whatever a level that this CPU lacks, or a lack of memory, raises
            raise EngineError(f"guardpass-kernels cannot open {model.name}: {error}") from None
        self._columns, self._max_tokens = config.columns, max_tokens

    @classmethod
    def open(cls, model: Path, manifest: Manifest, options: EngineOptions) -> Self:
        """Open a guard's model. Raises what the constructor does."""
        return cls(
            model,
            manifest,
            threads=options.threads,
            max_tokens=options.max_tokens,
            in_memory=options.in_memory,
        )

    def run(self, request: Pass) -> npt.NDArray[np.float32]:
        """Scores [1, S, V']. Raises EngineError."""
        return self._run(request)

    def run_until(self, request: Pass, stop: StopToken) -> npt.NDArray[np.float32]:
        """The same; the kernels look several times a layer whether they shall end."""
        asked = self._kernels.Stop()
        with stop.ends(asked.set):
            return self._run(request, stop=asked)

    def session(self) -> "NativeSession":
        """An engine for a text that grows. Raises EngineError where its longest pass finds no memory."""
        try:
            return NativeSession(self, self._model.cache(self._max_tokens))
        except Exception as error:
            raise EngineError(f"guardpass-kernels cannot open a session: {error}") from None

    def run_on(self, cache: Any, request: Pass) -> npt.NDArray[np.float32]:
        """`run`, with keys and values of the span's unchanged beginning taken from the kernels' cache."""
        return self._run(request, cache=cache)

    def _run(self, request: Pass, **options: Any) -> npt.NDArray[np.float32]:
        """options: of the kernels' pass, `cache` and `stop`."""
        chain = np.array(request.prefix_columns, np.int32)
        try:
            scores: npt.NDArray[np.float32] = self._model.run(
                request.tokens[0], request.positions[0], request.slots[0], chain, request.tree_mask, **options
            )
        except Exception as error:
            raise EngineError(f"guardpass-kernels failed on a pass of {request.tokens.size} tokens: {error}") from None
        if self._mapped is not None:
            self._mapped.check()
        expected = (request.slots.size, self._columns)
        if scores.shape != expected:
            raise EngineError(f"guardpass-kernels gave scores of shape {scores.shape}, expected {expected}")
        return scores[None]


class NativeSession:
    """A cache over an engine's model; a score is the same bits as without. Passes take turns with the engine's."""

    def __init__(self, engine: NativeEngine, cache: Any) -> None:
        self._engine, self._cache = engine, cache

    def run(self, request: Pass) -> Grown:
        """Raises EngineError, Closed."""
        cache = self._cache
        if cache is None:
            raise Closed("the session is closed; begin another")
        scores = self._engine.run_on(cache, request)
        return Grown(scores, cache.kept)

    def close(self) -> None:
        """Give the memory back."""
        self._cache = None
