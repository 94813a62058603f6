"""Engine native: guardpass-kernels run the whole pass, on weights that stay mapped in the file."""

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
    """Whether the kernels are installed and have a level above portable on this CPU. Raises EngineError."""
    if find_spec("guardpass_kernels") is None:
        return False
    try:
        level: str = library().level()
    except ValueError as error:  # GUARDPASS_KERNELS_LEVEL names a level that this CPU lacks
        raise EngineError(f"guardpass-kernels cannot run here: {error}") from None
    return level != "portable"


class NativeEngine:
    """Runs model.packed. Passes may run concurrently. A score depends neither on threads nor on other passes."""

    def __init__(
        self, model: Path, manifest: Manifest, *, threads: int | None, max_tokens: int, in_memory: bool = False
    ) -> None:
        """max_tokens: tokens of the longest pass of a session. in_memory: read the weights instead of mapping them.

        Raises GuardError for an invalid file, MissingDependency, EngineError.
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
        except Exception as error:  # such as a level that this CPU lacks, or too little memory
            raise EngineError(f"guardpass-kernels cannot open {model.name}: {error}") from None
        self._columns = config.columns
        self._max_tokens = max_tokens

    @classmethod
    def open(cls, model: Path, manifest: Manifest, options: EngineOptions) -> Self:
        """Open the model of a guard. Raises the errors of the constructor."""
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
        """Like `run`. The kernels poll for a stop several times in each layer."""
        flag = self._kernels.Stop()
        with stop.ends(flag.set):
            return self._run(request, stop=flag)

    def session(self) -> "NativeSession":
        """Begin a session. Raises EngineError if memory is short for its longest pass."""
        try:
            return NativeSession(self, self._model.cache(self._max_tokens))
        except Exception as error:
            raise EngineError(f"guardpass-kernels cannot open a session: {error}") from None

    def run_on(self, cache: Any, request: Pass) -> npt.NDArray[np.float32]:
        """Like `run`. It reuses the keys and values of the span's unchanged beginning from the cache."""
        return self._run(request, cache=cache)

    def _run(self, request: Pass, **options: Any) -> npt.NDArray[np.float32]:
        """options: `cache` and `stop` of the kernels."""
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
    """A cache over the model of an engine. Its scores equal those of the engine, bit for bit."""

    def __init__(self, engine: NativeEngine, cache: Any) -> None:
        self._engine = engine
        self._cache = cache

    def run(self, request: Pass) -> Grown:
        """Run the tokens that changed. Raises EngineError, Closed."""
        cache = self._cache
        if cache is None:
            raise Closed("the session is closed; begin another")
        scores = self._engine.run_on(cache, request)
        return Grown(scores, cache.kept)

    def close(self) -> None:
        """Free the cache."""
        self._cache = None
