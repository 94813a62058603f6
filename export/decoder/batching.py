"""How a graph lays out requests: one to a pass, or B of them side by side, each padded to T tokens and S slots."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .writer import DecoderWriter


@dataclass(frozen=True)
class Slots:
    """Names in the graph: which rows are slots, their positions [B, S], and what they see [B, 1, S, columns]."""

    index: str
    positions: str
    mask: str


@dataclass(frozen=True)
class Layout:
    """The parts of a graph that depend on how many requests a pass holds."""

    batch: int | str  # the first dimension of every input
    columns: int  # baked columns are filled up to a multiple of so many
    begin: Callable[[DecoderWriter, int], str]  # of the columns to fill up with: the mask's name
    lend: Callable[[DecoderWriter, str], str]  # a baked tensor [1, ...] as one of the batch, [B, ...]
    slots: Callable[[DecoderWriter, str], Slots]  # of the layer's mask
    kept: Callable[[DecoderWriter, str, str], str]  # of x [B, T, width], the rows at an index: [B, S, width]
    # A mask as attention reads it, beside activations of a type.
    seen: Callable[[DecoderWriter, str, np.dtype[Any]], str]

    def filled(self, baked: int) -> int:
        """The columns to put before `baked` ones."""
        return -baked % self.columns


def _one_begin(_graph: DecoderWriter, _fill: int) -> str:
    return "mask"


def _one_lend(_graph: DecoderWriter, name: str) -> str:
    return name


def _one_slots(graph: DecoderWriter, mask: str) -> Slots:
    index = graph.op("Squeeze", ["slots", graph.constant(np.array([0]))], "slots.index")[0]
    positions = graph.op("Gather", ["positions", index], "positions.slots", axis=1)[0]
    return Slots(index, positions, graph.op("Gather", [mask, index], "mask.slots", axis=2)[0])


def _one_kept(graph: DecoderWriter, x: str, index: str) -> str:
    return graph.op("Gather", [x, index], f"{x}.slots", axis=1)[0]


def _one_seen(_graph: DecoderWriter, mask: str, _dtype: np.dtype[Any]) -> str:
    return mask


# Nothing below asks for a shape: ONNX Runtime computes shapes on the CPU. Nor is there a GatherND, whose CUDA kernel,
# as it was read, copies from host memory that is gone when a captured graph is replayed: rows have one flat index.
_FIRST, _START = "batch.first", "batch.start"  # [B], zeros; [B, 1], the flat index of each request's first row


def _many_begin(graph: DecoderWriter, fill: int) -> str:
    op, constant = graph.op, graph.constant
    zero = op("Sub", ["tokens", "tokens"], "batch.zero")[0]
    op("Gather", [zero, constant(np.array(0))], _FIRST, axis=1)
    one = op("Add", [zero, constant(np.array(1))], "batch.one")[0]
    counted = op("CumSum", [one, constant(np.array(1))], "batch.counted")[0]
    length = op("Gather", [counted, constant(np.array(-1))], "batch.length", axis=1)[0]
    start = op("CumSum", [length, constant(np.array(0))], "batch.starts", exclusive=1)[0]
    op("Unsqueeze", [start, constant(np.array([1]))], _START)
    if not fill:
        return "mask"
    column = op("Gather", ["mask", constant(np.array([0]))], "mask.column", axis=3)[0]
    unseen = op("And", [column, constant(np.zeros((1, 1, 1, fill), np.bool_))], "mask.unseen")[0]
    return op("Concat", [unseen, "mask"], "mask.filled", axis=3)[0]


def _many_lend(graph: DecoderWriter, name: str) -> str:
    return graph.op("Gather", [name, _FIRST], f"{name}.lent", axis=0)[0]


def _many_slots(graph: DecoderWriter, mask: str) -> Slots:
    index = graph.op("Add", ["slots", _START], "slots.index")[0]
    flat = graph.op("Reshape", ["positions", graph.constant(np.array([-1]))], "positions.flat")[0]
    positions = graph.op("Gather", [flat, index], "positions.slots")[0]
    rows = graph.op("Flatten", [mask], "mask.flat", axis=3)[0]
    masked = graph.op("Gather", [rows, index], "mask.rows")[0]
    return Slots(index, positions, graph.op("Unsqueeze", [masked, graph.constant(np.array([1]))], "mask.slots")[0])


def _many_kept(graph: DecoderWriter, x: str, index: str) -> str:
    rows = graph.op("Flatten", [x], f"{x}.flat", axis=2)[0]
    return graph.op("Gather", [rows, index], f"{x}.slots")[0]


def _many_seen(graph: DecoderWriter, mask: str, dtype: np.dtype[Any]) -> str:
    """What is added to scores. Of a boolean mask ONNX Runtime would make it anew in every layer.

    Not the least number: the fused kernel multiplies it by log2(e), and rows of infinities are not numbers.
    """
    least = -65504 if dtype == np.float16 else -1e30
    values = [graph.constant(np.array(value, dtype)) for value in (0, least)]
    return graph.op("Where", [mask, *values], f"{mask}.bias")[0]


SINGLE = Layout(1, 1, _one_begin, _one_lend, _one_slots, _one_kept, _one_seen)
# ONNX Runtime's CUDA Attention takes a mask into a fused kernel (CUTLASS's memory-efficient attention) where the
# columns are a multiple of 4, and of 8 where its loads are wide; flash attention takes none. T is the runtime's part.
BATCHED = Layout("B", 8, _many_begin, _many_lend, _many_slots, _many_kept, _many_seen)
