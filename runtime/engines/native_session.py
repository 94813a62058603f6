"""Engine native on a text that grows: the kernels keep keys and values of the span's unchanged beginning."""

from typing import Any

from ..errors import Closed, EngineError
from ..plan import Pass
from . import Grown
from .native import NativeEngine


class NativeSession:
    """A cache over the engine's model; a score is the same bits as without. Passes take turns with the engine's."""

    def __init__(self, engine: NativeEngine) -> None:
        """Raises EngineError where there is no memory for the keys and values of the longest pass."""
        self._engine = engine
        try:
            self._cache: Any = engine._model.cache(engine._max_tokens)
        except Exception as error:
            raise EngineError(f"guardpass-kernels cannot open a session: {error}") from None

    def run(self, request: Pass) -> Grown:
        """Raises EngineError, Closed."""
        cache = self._cache
        if cache is None:
            raise Closed("the session is closed; begin another")
        scores = self._engine._run(request, cache=cache)
        return Grown(scores, cache.kept)

    def close(self) -> None:
        """Give the memory back."""
        self._cache = None
