"""llama.cpp: a pass is one `llama_decode` of the span and the whole tree, behind a prefix that is in the cache.

A branch must not score otherwise because of the branches beside it. In llama.cpp it does, by two ways of computing the
same: from 32 tokens on flash attention goes by tiles, whose sums hang on where a token lies (llama.cpp's issue 24962),
and products of quantized matrices take rows by fours, those left over singly. A rounding that goes the other way in a
quantized layer comes to some tenths of a logit. So where a tree has branches, keys and values are kept in two types,
for which llama.cpp has no tiles, and rows are made up to fours: a branch then scores the same but for float32's last
bits, whatever else is run (docs/gguf.md).
"""

import threading
import weakref
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import EngineError, GuardError, InputError
from ...format.gguf_header import read_header
from ...format.manifest import Device, Manifest
from ...format.tree import ancestors, depths, leaves
from ...plan import Pass
from ...stop import Stop
from ..hardware import usable_cores
from .batch import make_batch
from .library import AbortFlag, computed, has_tiles, library, quiet

if TYPE_CHECKING:
    from .session import LlamaSession

_SEQUENCES = 256  # LLAMA_MAX_SEQ
_MICRO_BATCH = 512
_F16, _BF16 = 1, 30  # ggml_type
_ROWS = 4


@dataclass(frozen=True)
class Room:
    """What a context is made for. tiles: whether flash attention may go by tiles, as nothing stands side by side."""

    threads: int | None
    device: Device
    cells: int
    sequences: int
    outputs: int
    tiles: bool


class LlamaCppEngine:
    """Runs model.gguf. One context, which passes take in turn under a lock: they would share the same cores.

    Sequences of the cache: first one for each mode's prefix, which stay; then one for what makes rows up to fours, and
    one for each leaf of a pass's tree.
    """

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
        self._columns = np.array(manifest.columns)
        self._prefix = manifest.prefix
        self._chains = [mode.prefix for mode in manifest.modes.values()]
        trees = [mode.tree for mode in manifest.modes.values()]
        branches = max(len(leaves(ancestors(tree.parents))) for tree in trees)
        self._filling = len(self._chains)
        self._sequences = len(self._chains) + 1 + branches
        if self._sequences > _SEQUENCES:
            raise InputError(f"the tree has {branches} branches, llama.cpp takes {_SEQUENCES - 3}; export to onnx")
        slots = max(len(tree.slots) for tree in trees)
        self._rows = _ROWS if max(branches, slots) > 1 else 1  # what is always alone has nothing beside it
        cells = len(self._prefix.tokens) + max_tokens + 2 * _ROWS
        outputs = max(self._sequences, slots + _ROWS)
        self._llama = library()
        self._lock = threading.Lock()
        with quiet(self._llama) as complaints:
            self._room = Room(threads, device, cells, self._sequences, outputs, tiles=branches == 1)
            self._model, self._context = _open(self._llama, model, self._room)
            if not self._context:
                reason = " ".join(complaints) or "no reason given"
                raise EngineError(f"llama.cpp {self._llama.__version__} cannot open {model.name}: {reason}")
        weakref.finalize(self, _free, self._llama, self._model, self._context)
        self._memory = self._llama.llama_get_memory(self._context)
        with quiet(self._llama):  # it tells that it was called
            self._abort = AbortFlag(self._llama, self._context)
        self._vocab = self._llama.llama_vocab_n_tokens(self._llama.llama_model_get_vocab(self._model))
        self._decode_prefixes()

    def run(self, request: Pass) -> npt.NDArray[np.float32]:
        """Scores [1, S, V']. Raises EngineError; the cache is back to the prefixes in every case."""
        return self._run(request, None)

    def run_until(self, request: Pass, stop: Stop) -> npt.NDArray[np.float32]:
        """The same; llama.cpp looks between operators whether it shall end."""
        return self._run(request, stop)

    def _run(self, request: Pass, stop: Stop | None) -> npt.NDArray[np.float32]:
        ends = leaves(request.sees)
        text, first = request.tokens.size - len(request.sees), self._filling + 1
        used = slice(first, first + len(ends))
        # Every token of the span, and every node, belongs to the leaves below it.
        carries = np.zeros((request.tokens.size, self._sequences), np.bool_)
        carries[:text, used] = True
        carries[text:, used] = request.sees[ends].T
        with self._lock, stop.ends(self._abort.set) if stop is not None else nullcontext():
            try:
                for leaf in range(first, first + len(ends)):
                    self._share(request.chain, leaf)
                self._decode(request.tokens[0], request.positions[0], carries, request.slots[0])
                rows = [self._scores(int(row)) for row in request.slots[0]]
            finally:
                self._abort.clear()
                for sequence in range(self._filling, first + len(ends)):
                    self._llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        return np.stack(rows)[None]

    def session(self) -> "LlamaSession":
        """An engine for a text that grows. Raises EngineError."""
        from .session import LlamaSession

        return LlamaSession(self)

    def _decode_prefixes(self) -> None:
        """All chains as the trie that they are, in one batch."""
        if not self._prefix.tokens:
            return
        tokens, parents = self._prefix.tokens, self._prefix.parents
        carries = np.zeros((len(tokens), self._sequences), np.bool_)
        for sequence, chain in enumerate(self._chains):
            carries[chain, sequence] = True
        self._decode(np.array(tokens), depths(parents), carries, np.empty(0, np.int64))
        self._llama.llama_memory_seq_rm(self._memory, self._filling, -1, -1)

    def _share(self, chain: tuple[int, ...], leaf: int) -> None:
        """Let a leaf see the baked columns of a chain, which some mode's prefix begins with."""
        if chain:
            holder = next(n for n, each in enumerate(self._chains) if each[: len(chain)] == chain)
            self._llama.llama_memory_seq_cp(self._memory, holder, leaf, 0, len(chain))

    def _decode(
        self,
        tokens: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
        carries: npt.NDArray[np.bool_],
        scored: npt.NDArray[np.int64],
    ) -> None:
        """Decode T tokens, made up to fours; carries [T, Q]: the sequences of each; scored: rows to score."""
        more = -len(tokens) % self._rows
        tokens = np.pad(tokens, (0, more), mode="edge")
        positions = np.concatenate([positions, np.arange(more)])
        carries = np.pad(carries, ((0, more), (0, 0)))
        carries[len(tokens) - more :, self._filling] = True
        others = np.setdiff1d(np.arange(len(tokens)), scored)[: -len(scored) % self._rows]
        batch, kept = make_batch(self._llama, tokens, positions, carries, np.concatenate([scored, others]))
        code = computed(lambda: self._llama.llama_decode(self._context, batch))
        del kept  # what the batch points to
        if code:
            raise EngineError(f"llama.cpp failed on a pass of {len(tokens)} tokens (llama_decode gave {code})")

    def _scores(self, row: int) -> npt.NDArray[np.float32]:
        """Of a row's vocabulary scores those of the verdict tokens, [V']."""
        found = self._llama.llama_get_logits_ith(self._context, row)
        if not found:
            raise EngineError(f"llama.cpp gave no scores for token {row} of the pass")
        scores: npt.NDArray[np.float32] = np.ctypeslib.as_array(found, (self._vocab,))[self._columns]
        return scores


def _open(llama: ModuleType, path: Path, room: Room) -> tuple[Any, Any]:
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


def open_context(llama: ModuleType, model: Any, room: Room) -> Any:
    """A context of a model; None where llama.cpp would not make it."""
    options = llama.llama_context_default_params()
    options.n_ctx = options.n_batch = room.cells
    options.n_ubatch = min(_MICRO_BATCH, room.cells)
    options.n_seq_max, options.n_outputs_max = room.sequences, room.outputs
    options.n_threads = options.n_threads_batch = room.threads or usable_cores()
    options.kv_unified = True  # a cell may belong to several sequences
    options.swa_full = True  # a sliding window's cache would drop the prefix
    options.offload_kqv = options.op_offload = room.device == "cuda"
    options.no_perf = True
    if room.device == "cpu":  # a GPU has no such tiles, and no kernels for two types
        options.flash_attn_type, options.type_k, options.type_v = 1, _F16, _F16 if room.tiles else _BF16
    return llama.llama_init_from_model(model, options)


def _free(llama: ModuleType, model: Any, context: Any) -> None:
    with quiet(llama):
        llama.llama_free(context)
        llama.llama_model_free(model)
