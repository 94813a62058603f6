"""The ONNX route: a checkpoint as model.onnx and its weight file, the prefix baked."""

import os
from collections.abc import Sequence
from pathlib import Path

from guardpass.manifest import File, Prefix
from guardpass.passes import Pass

from ..checkpoint.architecture import Architecture
from ..checkpoint.files import Array, Checkpoint
from ..decoder.forward import write_decoder
from ..decoder.ops import Ops
from ..decoder.recipe import Layer, Recipe
from ..guard_dir.progress import Progress, counted, file_of
from ..prompt.build import Prompts
from .graph import Graph, inputs, outputs


def write_onnx(
    source: Checkpoint,
    shape: Architecture,
    prompts: Prompts,
    recipe: Recipe[Graph],
    directory: Path,
    calibration: Sequence[Pass],
    judged: Sequence[Pass],
    progress: Progress,
) -> tuple[dict[str, File], list[Array]]:
    """Write the model; returns its files, and the scores [S, V'] that the checkpoint's own weights give `judged`.

    calibration: passes that a calibrated recipe corrects the weights by.
    Raises CheckpointError for weights that are not finite, or that overflow on the prefix.
    """
    path = directory / "model.onnx"
    graph = Graph(directory / "model.onnx.data")
    try:
        told = counted(shape.streamed, progress)
        ops = Ops(source, shape, graph, recipe, prompts.prefix, told, calibration, judged)
        scores = write_decoder(ops, shape, prompts.columns)
        batch = recipe.layout.batch
        given = inputs(len(prompts.prefix.tokens), batch)
        weights = graph.finish(path, given, outputs(len(prompts.columns), batch))
    finally:
        graph.close()
    return {"model.onnx.data": weights, path.name: file_of(path)}, scores


def reference_scores(
    source: Checkpoint,
    shape: Architecture,
    prefix: Prefix,
    columns: Sequence[int],
    judged: Sequence[Pass],
    progress: Progress = lambda _done, _total: None,
) -> list[Array]:
    """What the checkpoint's own weights say of `judged` in fp32, each [S, V']; nothing is written.

    prefix: the baked columns of the passes. columns: the V' token ids that are scored.
    """
    graph = Graph(Path(os.devnull))
    try:
        ops = Ops(source, shape, graph, _UNWRITTEN, prefix, counted(shape.streamed, progress), (), judged)
        return write_decoder(ops, shape, columns)
    finally:
        graph.close()


def _unwritten(_graph: Graph, layer: Layer) -> str:
    for _ in layer.chunks:  # the reference computes as they pass
        pass
    return layer.name


_UNWRITTEN = Recipe("fp32", _unwritten)
