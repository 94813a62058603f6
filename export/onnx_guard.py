"""The ONNX route: a checkpoint as model.onnx and its weight file, the prefix baked."""

import math
from collections.abc import Mapping
from pathlib import Path

from guardpass.errors import InputError

from .architecture import Architecture
from .checkpoint import Checkpoint
from .decoder import inputs, outputs, write_decoder
from .graph import Graph
from .ops import Ops
from .prompt import Prompts
from .quantize import RECIPES
from .written import Progress, Written, file_of


def write_onnx(
    source: Checkpoint, shape: Architecture, prompts: Prompts, quant: str, directory: Path, progress: Progress
) -> Written:
    """Write the model. Raises CheckpointError for weights that are not finite, or that overflow on the prefix."""
    done, total = 0, sum(math.prod(s) for name, s in shape.shapes().items() if len(s) == 2 and name != "lm_head.weight")

    def advance(weights: int) -> None:
        nonlocal done
        done += weights
        progress(done, total)

    path = directory / "model.onnx"
    graph = Graph(directory / "model.onnx.data")
    try:
        ops = Ops(source, shape, graph, RECIPES[quant], prompts.prefix, advance)
        write_decoder(ops, shape, prompts.columns)
        weights = graph.finish(path, inputs(len(prompts.prefix.tokens)), outputs(len(prompts.columns)))
    finally:
        graph.close()
    return Written({"model.onnx.data": weights, path.name: file_of(path)}, shape.kind.name, shape.context, shape.vocab)


def check_quant(quant: str, refused: Mapping[str, str]) -> None:
    """Raises InputError for a precision that is not in the table, or that the architecture refuses."""
    if quant in refused:
        raise InputError(f"quant {quant} is refused for this architecture: {refused[quant]}")
    if quant not in RECIPES:
        raise InputError(f"quant is {quant!r}, expected one of: {', '.join(RECIPES)}")
