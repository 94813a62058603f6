"""Engine llamacpp: a pass is one `llama_decode` of the span and the whole tree, after a prefix in the cache.

The score of a branch must not depend on the other branches. By default it does in llama.cpp, for two reasons. From 32
tokens on, flash attention uses tiles, and its sums depend on the position of a token (llama.cpp's issue 24962). And
products of quantized matrices take rows in groups of four, the remaining rows one by one. Another rounding in a
quantized layer changes a score by some tenths of a logit. So for a tree with branches, keys and values have two types,
for which llama.cpp has no tiles, and rows are padded to groups of four. Then the score of a branch is independent of
the others, but for the last bits of float32 (docs/gguf.md).
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
    """Runs model.gguf in one context. Passes take turns under a lock, as they share the cores."""

    def __init__(
        self, model: Path, manifest: Manifest, *, threads: int | None, max_tokens: int, device: Device
    ) -> None:
        """max_tokens: tokens of the longest pass, prefix included. Raises GuardError, EngineError, InputError."""
        try:
            header = read_header(model)
        except ValueError as error:
            raise GuardError(f"{model.name} is no GGUF that can be opened safely: {error}") from None
        if len(header.tokens) < manifest.vocab:
            raise GuardError(f"{model.name} has {len(header.tokens)} tokens, guard.json {manifest.vocab}; export again")
        layout = Layout.of(manifest)
        if layout.sequences > _SEQUENCES:
            limit = _SEQUENCES - 3
            raise InputError(f"the tree has {layout.branches} branches, llama.cpp takes {limit}; export to onnx")
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
        """Open the model of a guard. Raises the errors of the constructor."""
        return cls(model, manifest, threads=options.threads, max_tokens=options.max_tokens, device=options.device)

    def run(self, request: Pass) -> npt.NDArray[np.float32]:
        """Scores [1, S, V']. Raises EngineError. Afterwards the cache holds the prefixes alone, in any case."""
        return self._run(request, None)

    def run_until(self, request: Pass, stop: StopToken) -> npt.NDArray[np.float32]:
        """Like `run`. llama.cpp polls for a stop between operators."""
        return self._run(request, stop)

    def session(self) -> LlamaSession:
        """Begin a session. Raises EngineError."""
        return LlamaSession(self.context, self._model, owner=self)

    def _run(self, request: Pass, stop: StopToken | None) -> npt.NDArray[np.float32]:
        context, layout = self.context, self.context.layout
        ends = leaves(request.tree_mask)
        text, first = request.tokens.size - len(request.tree_mask), layout.first_leaf
        used = slice(first, first + len(ends))
        # A token belongs to the sequence of every leaf that sees it.
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
    """The model and its context; None for both if llama.cpp refuses to make one."""
    llama.llama_backend_init()
    if room.device == "cuda" and not llama.llama_supports_gpu_offload():
        raise InputError(
            "device is 'cuda', and this llama-cpp-python is built for CPUs; build it with CMAKE_ARGS=-DGGML_CUDA=on"
        )
    options = llama.llama_model_default_params()
    options.n_gpu_layers = -1 if room.device == "cuda" else 0
    # Read, not mapped: later changes of the file have no effect, and repacked weights are not held twice.
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
