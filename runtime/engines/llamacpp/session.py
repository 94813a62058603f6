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
from .. import Grown
from .engine import LlamaCppEngine, open_context
from .library import quiet

# Products of quantized matrices take rows by fours: what is kept ends where a group does, so that the rest is grouped
# as in a whole pass, and comes to the same.
_GROUP = 4


class LlamaSession(LlamaCppEngine):
    """A context of its own over the engine's model, with one more sequence, which keeps the span."""

    def __init__(self, engine: LlamaCppEngine) -> None:
        """Raises EngineError where there is no memory for another context."""
        self.__dict__ |= engine.__dict__  # the model, and all that is known of it
        self._engine = engine  # which owns the model
        self._room = replace(engine._room, sequences=engine._sequences + 1, outputs=engine._room.outputs + 1)
        self._sequences, self._keeper = self._room.sequences, engine._sequences
        with quiet(self._llama) as complaints:
            self._context = open_context(self._llama, self._model, self._room)
        if not self._context:
            raise EngineError(f"llama.cpp cannot open a session: {' '.join(complaints) or 'no reason given'}")
        self.close = weakref.finalize(self, _free, self._llama, self._context)
        self._memory = self._llama.llama_get_memory(self._context)
        self._chain: tuple[int, ...] = ()
        self._span: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._decode_prefixes()

    def run(self, request: Pass) -> Grown:  # type: ignore[override]
        """Raises EngineError; nothing is then kept."""
        text = request.tokens.size - len(request.sees)
        span = request.tokens[0, :text]
        with self._lock:
            kept = self._common(request, span)
            try:
                scores = self._run_rest(request, text, kept)
            except BaseException:
                self._chain, self._span = (), np.empty(0, np.int64)
                raise
            self._chain, self._span = request.chain, span.copy()
        return Grown(scores, kept)

    def _common(self, request: Pass, span: npt.NDArray[np.int64]) -> int:
        """How much of the span is in the cache and can stay; the cache is cut to it."""
        most = min(len(span), len(self._span)) if request.chain == self._chain else 0
        differ = np.flatnonzero(span[:most] != self._span[:most])
        kept = int(differ[0]) if len(differ) else most
        kept -= kept % _GROUP
        if kept:
            self._llama.llama_memory_seq_rm(self._memory, self._keeper, len(request.chain) + kept, -1)
        else:
            self._llama.llama_memory_seq_rm(self._memory, self._keeper, -1, -1)
            self._share(request.chain, self._keeper)
        return kept

    def _run_rest(self, request: Pass, text: int, kept: int) -> npt.NDArray[np.float32]:
        ends, first = leaves(request.sees), self._filling + 1
        used = slice(first, first + len(ends))
        carries = np.zeros((request.tokens.size, self._sequences), np.bool_)
        carries[:text, used] = carries[:text, self._keeper] = True
        carries[text:, used] = request.sees[ends].T
        try:
            for leaf in range(first, first + len(ends)):
                self._llama.llama_memory_seq_cp(self._memory, self._keeper, leaf, 0, len(request.chain) + kept)
            slots = request.slots[0] - kept
            self._decode(request.tokens[0, kept:], request.positions[0, kept:], carries[kept:], slots)
            return np.stack([self._scores(int(row)) for row in slots])[None]
        finally:
            for sequence in range(self._filling, first + len(ends)):
                self._llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)


def _free(llama: ModuleType, context: Any) -> None:
    with quiet(llama):
        llama.llama_free(context)
