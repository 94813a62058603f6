"""Graphs for CUDA of tiny random models, and passes of several requests side by side, as the runtime pads them."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch

from guardpass.export.checkpoint.config import read_architecture
from guardpass.export.checkpoint.files import Checkpoint
from guardpass.export.decoder.forward import write_decoder
from guardpass.export.decoder.ops import Ops
from guardpass.export.to_onnx.cuda_emulation import widened
from guardpass.export.to_onnx.cuda_recipes import RECIPES
from guardpass.export.to_onnx.graph import Graph, inputs, outputs
from guardpass.format.manifest import Prefix
from guardpass.format.tree import ancestors, depths
from guardpass.plan import Pass

from .models import MODELS

TOKENS, BAKED, ROWS = 60, 21, 30
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Made:
    """A checkpoint, the prefix that graphs of it bake, and the model itself in transformers."""

    name: str
    checkpoint: Path
    prefix: tuple[int, ...]
    model: Any

    def graph(self, quant: str, directory: Path, baked: bool = True) -> Path:
        """model.onnx for CUDA, scoring the vocabulary's first `ROWS`."""
        tokens = self.prefix if baked else ()
        source, graph = Checkpoint(self.checkpoint), Graph(directory / "model.onnx.data")
        shape, prefix = read_architecture(source), Prefix(tokens, tuple(range(-1, len(tokens) - 1)))
        write_decoder(Ops(source, shape, graph, RECIPES[quant], prefix, lambda _: None), shape, range(ROWS))
        graph.finish(directory / "model.onnx", inputs(len(tokens), "B"), outputs(ROWS, "B"))
        return directory / "model.onnx"

    @torch.no_grad()
    def logits(self, request: Pass, dtype: torch.dtype = torch.float32) -> Floats:
        """What transformers gives behind each slot's own tokens: [S, ROWS]."""
        model, mask = _of(self.model, dtype), request.mask[0, 0]
        found = []
        for row in request.slots[0]:
            seen = request.tokens[0, np.flatnonzero(mask[row, request.prefix_len :])]
            ids = torch.tensor([[*(self.prefix[column] for column in request.prefix_columns), *seen.tolist()]])
            found.append(model(ids).logits[0, -1, :ROWS].float().numpy())
        return np.stack(found)


def made(name: str, directory: Path, spread: float = 0.1) -> Made:
    """A model of the table with random weights that bfloat16 and float16 hold exactly."""
    torch.manual_seed(0)
    model = MODELS[name]().float().eval()
    for parameter in model.parameters():
        neutral = 0.0 if parameter.dim() > 1 or "gemma" in name else 1.0
        values = neutral + torch.randn_like(parameter) * (spread if parameter.dim() > 1 else 0.2)
        parameter.data = values.to(torch.bfloat16).float()
    _of(model, torch.bfloat16).save_pretrained(directory)
    prefix = np.random.default_rng(1).integers(0, 300, BAKED)
    return Made(name, directory, tuple(prefix.tolist()), model)


def _of(model: Any, dtype: torch.dtype) -> Any:
    """The model as transformers loads it in a type: `to` would round the rotation's frequencies as well."""
    copied = deepcopy(model)
    for parameter in copied.parameters():
        parameter.data = parameter.data.to(dtype)
    return copied


def request(span: int, parents: Sequence[int], slots: Sequence[int], chain: int = BAKED, baked: int = BAKED) -> Pass:
    """A span of random tokens and a tree behind it; `chain` of the `baked` columns are seen."""
    run = span + len(parents)
    positions = np.concatenate([np.arange(span), span + depths(tuple(parents))]) + chain
    return Pass(
        tokens=np.random.default_rng(run).integers(0, 300, (1, run)),
        positions=positions[None].astype(np.int64),
        slots=np.array([slots], np.int64) + span,
        prefix_columns=tuple(range(chain)),
        prefix_len=baked,
        tree_mask=ancestors(tuple(parents)),
    )


def requests(baked: bool) -> list[Pass]:
    """Of three lengths, all longer than a window: one tree with branches, two chains, one that leaves a lead out."""
    columns = BAKED if baked else 0
    return [
        request(24, (-1, 0, 1, 0, 3, -1, 5), (2, 4, 6), columns, columns),
        request(39, (-1,), (0,), columns, columns),
        request(13, (-1, 0), (0, 1), max(0, columns - 4), columns),
    ]


def padded(passes: Sequence[Pass], length: int, slots: int) -> dict[str, npt.NDArray[Any]]:
    """Feeds: a row of padding sees itself alone, slots left over read the first again."""
    count, baked = len(passes), passes[0].prefix_len
    feeds: dict[str, npt.NDArray[Any]] = {
        "tokens": np.full((count, length), 7),
        "positions": np.zeros((count, length), np.int64),
        "mask": np.zeros((count, 1, length, baked + length), np.bool_),
        "slots": np.zeros((count, slots), np.int64),
    }
    for each, one in enumerate(passes):
        run, rest = one.tokens.size, np.arange(one.tokens.size, length)
        feeds["tokens"][each, :run], feeds["positions"][each, :run] = one.tokens[0], one.positions[0]
        feeds["mask"][each, 0, :run, : baked + run] = one.mask[0, 0]
        feeds["mask"][each, 0, rest, baked + rest] = True
        feeds["slots"][each] = one.slots[0, 0]
        feeds["slots"][each, : one.slots.size] = one.slots[0]
    return feeds


def opened(model: Path, *, wide: bool = False) -> onnxruntime.InferenceSession:
    """On the CPU; wide: with every 16-bit operator in float32, its results rounded."""
    if wide:
        path = model.with_name("wide.onnx")
        path.write_bytes(widened(onnx.load(model, load_external_data=False)).SerializeToString())
        model = path
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def scores(
    session: onnxruntime.InferenceSession, passes: Sequence[Pass], length: int = 48, slots: int = 4
) -> list[Floats]:
    """Of each pass [S, ROWS], all run side by side."""
    (found,) = session.run(["scores"], padded(passes, length, slots))
    return [row[: one.slots.size] for row, one in zip(found, passes, strict=True)]
