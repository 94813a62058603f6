"""Sessions on llama.cpp: keys and values of the span's unchanged beginning are reused; the rest is decoded again."""

import weakref
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import EngineError
from ...format.tree import leaves
from ...plan import Pass
from ..base import Grown
from .context import LlamaContext, open_context
from .library import quiet

# Products of quantized matrices take rows in groups of four. Reuse ends at a group boundary, so that the other rows are
# grouped as in a whole pass and have the same scores.
_GROUP = 4


class LlamaSession:
    """A second context over the model of an engine, with one more sequence for the span."""

    def __init__(self, engine: LlamaContext, model: Any, *, owner: object) -> None:
        """engine: the context of the engine that owns the model.
        owner: a reference that keeps the model alive.

        Raises EngineError if memory is short for another context.
        """
        llama = engine.llama
        layout = engine.layout
        self._owner = owner
        self._keeper = layout.sequences
        room = replace(engine.room, sequences=layout.sequences + 1, outputs=engine.room.outputs + 1)
        with quiet(llama) as complaints:
            handle = open_context(llama, model, room)
        if not handle:
            raise EngineError(f"llama.cpp cannot open a session: {' '.join(complaints) or 'no reason given'}")
        self._free = weakref.finalize(self, _free, llama, handle)
        self._context = LlamaContext(llama, handle, layout, room, engine.lock)
        self._chain: tuple[int, ...] = ()
        self._span: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def run(self, request: Pass) -> Grown:
        """Decode the tokens that changed. Raises EngineError, and then reuses nothing next time."""
        text = request.tokens.size - len(request.tree_mask)
        span = request.tokens[0, :text]
        with self._context.lock:
            reused = self._reuse(request, span)
            try:
                scores = self._run_rest(request, text, reused)
            except BaseException:
                self._chain, self._span = (), np.empty(0, np.int64)
                raise
            self._chain, self._span = request.prefix_columns, span.copy()
        return Grown(scores, reused)

    def close(self) -> None:
        """Free the context."""
        self._free()

    def _reuse(self, request: Pass, span: npt.NDArray[np.int64]) -> int:
        """The number of span tokens to reuse. It removes the others from the cache."""
        limit = min(len(span), len(self._span)) if request.prefix_columns == self._chain else 0
        differ = np.flatnonzero(span[:limit] != self._span[:limit])
        reused = int(differ[0]) if len(differ) else limit
        reused -= reused % _GROUP
        if reused:
            self._context.clear(self._keeper, len(request.prefix_columns) + reused)
        else:
            self._context.clear(self._keeper)
            self._context.share(request.prefix_columns, self._keeper)
        return reused

    def _run_rest(self, request: Pass, text: int, reused: int) -> npt.NDArray[np.float32]:
        context, layout = self._context, self._context.layout
        ends, first = leaves(request.tree_mask), layout.first_leaf
        used = slice(first, first + len(ends))
        carries = np.zeros((request.tokens.size, context.room.sequences), np.bool_)
        carries[:text, used] = carries[:text, self._keeper] = True
        carries[text:, used] = request.tree_mask[ends].T
        try:
            for leaf in range(first, first + len(ends)):
                context.copy(self._keeper, leaf, len(request.prefix_columns) + reused)
            slots = request.slots[0] - reused
            context.decode(request.tokens[0, reused:], request.positions[0, reused:], carries[reused:], slots)
            return context.scores(slots)
        finally:
            for sequence in range(layout.filling, first + len(ends)):
                context.clear(sequence)


def _free(llama: ModuleType, context: Any) -> None:
    with quiet(llama):
        llama.llama_free(context)
