"""llama.cpp on a text that grows: keys and values of the span's unchanged beginning stay, the rest is run anew."""

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

# Products of quantized matrices take rows by fours: what is reused ends where a group does, so that the rest is grouped
# as in a whole pass, and gives the same.
_GROUP = 4


class LlamaSession:
    """A context of its own over an engine's model, with one more sequence, which holds the span."""

    def __init__(self, engine: LlamaContext, model: Any, *, owner: object) -> None:
        """engine: the context of the engine that owns the model. owner: held, as the model ends with it.

        Raises EngineError where there is no memory for another context.
        """
        llama, layout = engine.llama, engine.layout
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
        """Raises EngineError; nothing is then kept."""
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
        """Give the memory back."""
        self._free()

    def _reuse(self, request: Pass, span: npt.NDArray[np.int64]) -> int:
        """How much of the span is in the cache and can stay; the cache is cut to it."""
        most = min(len(span), len(self._span)) if request.prefix_columns == self._chain else 0
        differ = np.flatnonzero(span[:most] != self._span[:most])
        reused = int(differ[0]) if len(differ) else most
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
