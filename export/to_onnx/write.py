"""The ONNX route: a checkpoint as model.onnx and its weight file, the prefix baked."""

from collections.abc import Sequence
from dataclasses import dataclass

from guardpass.format.engines import ENGINES
from guardpass.plan import Pass

from ..decoder.forward import write_decoder
from ..decoder.ops import Ops
from ..decoder.recipe import Recipe
from ..guard_dir.file_entry import file_entry
from ..guard_dir.job import Job, Written
from ..guard_dir.progress import summed
from .graph import Graph, inputs, outputs

MODEL = ENGINES["onnx"].model
DATA = MODEL + ".data"


@dataclass(frozen=True)
class OnnxWriter:
    """Writes a guard of engine onnx by a recipe."""

    recipe: Recipe[Graph]

    @property
    def calibrated(self) -> bool:
        return self.recipe.calibrated

    def write(self, job: Job, calibration: Sequence[Pass], judged: Sequence[Pass]) -> Written:
        """Write both files. Raises CheckpointError for weights that are not finite, or that overflow on the prefix."""
        path, prompts, batch = job.directory / MODEL, job.prompts, self.recipe.layout.batch
        graph = Graph(job.directory / DATA)
        try:
            advance = summed(job.arch.streamed, job.progress)
            ops = Ops(job.checkpoint, job.arch, graph, self.recipe, prompts.prefix, advance, calibration, judged)
            scores = write_decoder(ops, job.arch, prompts.columns)
            ends = inputs(len(prompts.prefix.tokens), batch), outputs(len(prompts.columns), batch)
            weights = graph.finish(path, *ends)
        finally:
            graph.close()
        return Written({DATA: weights, path.name: file_entry(path)}, scores)
