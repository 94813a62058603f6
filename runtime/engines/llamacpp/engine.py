"""llama.cpp: a pass is one `llama_decode` of the span and the whole tree, behind a prefix that is in the cache.

A branch must not score otherwise because of the branches beside it. In llama.cpp it does, by two ways of computing the
same: from 32 tokens on flash attention goes by tiles, whose sums depend on where a token lies (llama.cpp's issue
24962), and products of quantized matrices take rows by fours, those left over singly. A rounding that goes the other
way in a quantized layer changes a score by some tenths of a logit. So where a tree has branches, keys and values are
kept in two types, for which llama.cpp has no tiles, and rows are made up to fours: a branch then scores the same but
for float32's last bits, whatever else is run (docs/gguf.md).
"""

import threading
import weakref
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ...errors import EngineError, GuardError, InputError
from ...format.gguf_header import read_header
from ...format.manifest import Device, Manifest
from ...format.tree import leaves
from ...plan import Pass
from ...stop import StopToken
from ..base import EngineOptions
from .context import Layout, LlamaContext, Room, open_context
from .library import has_tiles, library, quiet
from .session import LlamaSession

_SEQUENCES = 256  # LLAMA_MAX_SEQ


class LlamaCppEngine:
    """Runs model.gguf. One context, which passes take in turn under a lock: they would share the same cores."""

    def __init__(
        self, model: Path, manifest: Manifest, *, threads: int | None, max_tokens: int, device: Device
    ) -> None:
        """max_tokens: prefix, span and tree of the longest pass. Raises GuardError, EngineError, InputError."""
        try:
            header = read_header(model)
        except ValueError as error:
            raise GuardError(f"{model.name} is no GGUF that can be opened safely: {error}") from None
        if len(header.tokens) < manifest.vocab:
            raise GuardError(f"{model.name} has {len(header.tokens)} tokens, guard.json {manifest.vocab}; export again")
        layout = Layout.of(manifest)
        if layout.sequences > _SEQUENCES:
            most = _SEQUENCES - 3
            raise InputError(f"the tree has {layout.branches} branches, llama.cpp takes {most}; export to onnx")
        llama, room = library(), layout.room(threads, device, max_tokens)
        with quiet(llama) as complaints:
            self._model, handle = open_model(llama, model, room)
            if not handle:
                reason = " ".join(complaints) or "no reason given"
                raise EngineError(f"llama.cpp {llama.__version__} cannot open {model.name}: {reason}")
        weakref.finalize(self, free, llama, self._model, handle)
        self.context = LlamaContext(llama, handle, layout, room, threading.Lock())

    @classmethod
    def open(cls, model: Path, manifest: Manifest, options: EngineOptions) -> Self:
        """Open a guard's model. Raises what the constructor does."""
        return cls(model, manifest, threads=options.threads, max_tokens=options.max_tokens, device=options.device)

    def run(self, request: Pass) -> npt.NDArray[np.float32]:
        """Scores [1, S, V']. Raises EngineError; the cache is back to the prefixes in every case."""
        return self._run(request, None)

    def run_until(self, request: Pass, stop: StopToken) -> npt.NDArray[np.float32]:
        """The same; llama.cpp looks between operators whether it shall end."""
        return self._run(request, stop)

    def session(self) -> LlamaSession:
        """An engine for a text that grows. Raises EngineError."""
        return LlamaSession(self.context, self._model, owner=self)

    def _run(self, request: Pass, stop: StopToken | None) -> npt.NDArray[np.float32]:
        context, layout = self.context, self.context.layout
        ends = leaves(request.tree_mask)
        text, first = request.tokens.size - len(request.tree_mask), layout.first_leaf
        used = slice(first, first + len(ends))
        # Every token of the span, and every node, belongs to the leaves below it.
        carries = np.zeros((request.tokens.size, layout.sequences), np.bool_)
        carries[:text, used] = True
        carries[text:, used] = request.tree_mask[ends].T
        with context.lock, stop.ends(context.abort.set) if stop is not None else nullcontext():
            try:
                for leaf in range(first, first + len(ends)):
                    context.share(request.prefix_columns, leaf)
                context.decode(request.tokens[0], request.positions[0], carries, request.slots[0])
                return context.scores(request.slots[0])
            finally:
                context.abort.clear()
                for sequence in range(layout.filling, first + len(ends)):
                    context.clear(sequence)


def open_model(llama: ModuleType, path: Path, room: Room) -> tuple[Any, Any]:
    """Model and context; None in place of what llama.cpp would not make."""
    llama.llama_backend_init()
    if room.device == "cuda" and not llama.llama_supports_gpu_offload():
        raise InputError(
            "device is 'cuda', and this llama-cpp-python is built for CPUs; build it with CMAKE_ARGS=-DGGML_CUDA=on"
        )
    options = llama.llama_model_default_params()
    options.n_gpu_layers = -1 if room.device == "cuda" else 0
    # Read, not mapped: a file that is changed later changes nothing, and what llama.cpp repacks is not held twice.
    options.load_mode = llama.LLAMA_LOAD_MODE_NONE
    options.use_extra_bufts = not has_tiles(llama)
    model = llama.llama_model_load_from_file(bytes(path), options)
    if not model:
        return None, None
    context = open_context(llama, model, room)
    if not context:
        llama.llama_model_free(model)
        return None, None
    return model, context


def free(llama: ModuleType, model: Any, context: Any) -> None:
    """Free a context and its model."""
    with quiet(llama):
        llama.llama_free(context)
        llama.llama_model_free(model)
