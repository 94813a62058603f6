"""A llama.cpp context: its cache holds the prefixes of the guard; it decodes and reads verdict scores."""

import threading
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import EngineError
from ...format.manifest import Device, Manifest
from ...format.tree import ancestors, depths, leaves
from ..hardware import usable_cores
from .batch import make_batch
from .library import AbortFlag, computed, quiet

_MICRO_BATCH = 512
_F16, _BF16 = 1, 30  # ggml_type
_ROWS = 4


@dataclass(frozen=True)
class Room:
    """The size of a context.

    cells, sequences: of its cache. outputs: rows with logits.
    tiles: flash attention may use tiles, as a tree without branches has nothing side by side.
    """

    threads: int | None
    device: Device
    cells: int
    sequences: int
    outputs: int
    tiles: bool


@dataclass(frozen=True)
class Layout:
    """The layout of the cache, and the verdict tokens.

    Sequences: first one for each mode's prefix, which is permanent; then one for padding tokens, which fill up groups
    of four rows; then one for each leaf of a pass's tree.
    """

    columns: npt.NDArray[np.int64]  # [V'], the verdict tokens' ids
    prefix: tuple[int, ...]
    parents: tuple[int, ...]
    chains: tuple[tuple[int, ...], ...]  # by mode, the baked columns
    branches: int  # maximum over the trees
    slots: int  # maximum over the trees

    @classmethod
    def of(cls, manifest: Manifest) -> "Layout":
        """The layout of a guard."""
        trees = [mode.tree for mode in manifest.modes.values()]
        return cls(
            columns=np.array(manifest.columns),
            prefix=manifest.prefix.tokens,
            parents=manifest.prefix.parents,
            chains=tuple(mode.prefix for mode in manifest.modes.values()),
            branches=max(len(leaves(ancestors(tree.parents))) for tree in trees),
            slots=max(len(tree.slots) for tree in trees),
        )

    @property
    def filling(self) -> int:
        """The sequence of padding tokens."""
        return len(self.chains)

    @property
    def first_leaf(self) -> int:
        """The sequence of the first leaf of a pass."""
        return len(self.chains) + 1

    @property
    def sequences(self) -> int:
        """The number of sequences."""
        return len(self.chains) + 1 + self.branches

    @property
    def rows(self) -> int:
        """The multiple that row counts are padded to. A tree with one branch and one slot needs no padding."""
        return _ROWS if max(self.branches, self.slots) > 1 else 1

    def room(self, threads: int | None, device: Device, max_tokens: int) -> Room:
        """The size of a context for passes of up to `max_tokens` tokens, prefix included."""
        cells = len(self.prefix) + max_tokens + 2 * _ROWS
        outputs = max(self.sequences, self.slots + _ROWS)
        return Room(threads, device, cells, self.sequences, outputs, tiles=self.branches == 1)


class LlamaContext:
    """One context of a model, with decoded prefixes. Hold `lock` while you use it."""

    def __init__(self, llama: ModuleType, context: Any, layout: Layout, room: Room, lock: threading.Lock) -> None:
        """lock: the lock of the model, as its contexts share the cores. Raises EngineError."""
        self.llama = llama
        self.handle = context
        self.layout = layout
        self.room = room
        self.lock = lock
        self.memory = llama.llama_get_memory(context)
        with quiet(llama):  # it logs the call
            self.abort = AbortFlag(llama, context)
        model = llama.llama_get_model(context)
        self._vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
        self._decode_prefixes()

    def copy(self, source: int, target: int, end: int) -> None:
        """Copy the first `end` positions of a sequence to another one."""
        self.llama.llama_memory_seq_cp(self.memory, source, target, 0, end)

    def clear(self, sequence: int, begin: int = -1) -> None:
        """Remove a sequence, or its positions from `begin` on."""
        self.llama.llama_memory_seq_rm(self.memory, sequence, begin, -1)

    def share(self, chain: tuple[int, ...], sequence: int) -> None:
        """Copy the baked columns of a chain to a sequence. The prefix of some mode begins with the chain."""
        if chain:
            chains = self.layout.chains
            holder = next(number for number, other in enumerate(chains) if other[: len(chain)] == chain)
            self.copy(holder, sequence, len(chain))

    def decode(
        self,
        tokens: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
        carries: npt.NDArray[np.bool_],
        scored: npt.NDArray[np.int64],
    ) -> None:
        """Decode T tokens, padded to the row multiple. Raises EngineError.

        carries: [T, Q], True where token t belongs to sequence q. scored: the rows that need logits.
        """
        more = -len(tokens) % self.layout.rows
        tokens = np.pad(tokens, (0, more), mode="edge")
        positions = np.concatenate([positions, np.arange(more)])
        carries = np.pad(carries, ((0, more), (0, 0)))
        carries[len(tokens) - more :, self.layout.filling] = True
        others = np.setdiff1d(np.arange(len(tokens)), scored)[: -len(scored) % self.layout.rows]
        batch, arrays = make_batch(self.llama, tokens, positions, carries, np.concatenate([scored, others]))
        code = computed(partial(self.llama.llama_decode, self.handle, batch))
        del arrays  # the batch points into them
        if code:
            raise EngineError(f"llama.cpp failed on a pass of {len(tokens)} tokens (llama_decode gave {code})")

    def scores(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The logits of the verdict tokens at each row, [1, S, V']. Raises EngineError."""
        return np.stack([self._scores(int(row)) for row in rows])[None]

    def _scores(self, row: int) -> npt.NDArray[np.float32]:
        logits = self.llama.llama_get_logits_ith(self.handle, row)
        if not logits:
            raise EngineError(f"llama.cpp gave no scores for token {row} of the pass")
        scores: npt.NDArray[np.float32] = np.ctypeslib.as_array(logits, (self._vocab,))[self.layout.columns]
        return scores

    def _decode_prefixes(self) -> None:
        """Decode the trie of all chains in one batch."""
        layout = self.layout
        if not layout.prefix:
            return
        carries = np.zeros((len(layout.prefix), self.room.sequences), np.bool_)
        for sequence, chain in enumerate(layout.chains):
            carries[chain, sequence] = True
        self.decode(np.array(layout.prefix), depths(layout.parents), carries, np.empty(0, np.int64))
        self.clear(layout.filling)


def open_context(llama: ModuleType, model: Any, room: Room) -> Any:
    """A context of a model; None if llama.cpp refuses to make it."""
    options = llama.llama_context_default_params()
    options.n_ctx = options.n_batch = room.cells
    options.n_ubatch = min(_MICRO_BATCH, room.cells)
    options.n_seq_max, options.n_outputs_max = room.sequences, room.outputs
    options.n_threads = options.n_threads_batch = room.threads or usable_cores()
    options.kv_unified = True  # a cell may belong to several sequences
    options.swa_full = True  # a sliding window's cache would drop the prefix
    options.offload_kqv = options.op_offload = room.device == "cuda"
    options.no_perf = True
    if room.device == "cpu":  # GPUs have no such tiles, and no kernels for mixed types
        options.flash_attn_type, options.type_k, options.type_v = 1, _F16, _F16 if room.tiles else _BF16
    return llama.llama_init_from_model(model, options)
