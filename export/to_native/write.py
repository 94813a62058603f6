"""The native route: a checkpoint as model.packed, the weights in the layout of guardpass-kernels, the prefix baked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np

from guardpass.format.engines import ENGINES
from guardpass.format.manifest import Prefix
from guardpass.format.packed_config import Config
from guardpass.format.tree import depths
from guardpass.plan import Pass

from ..checkpoint.architecture import Architecture
from ..checkpoint.files import Array, Checkpoint
from ..decoder.forward import write_decoder
from ..decoder.ops import Ops
from ..decoder.recipe import Recipe
from ..decoder.rotation import signs
from ..guard_dir.file_entry import file_entry
from ..guard_dir.job import Job, Written
from ..guard_dir.progress import Progress, no_progress, summed
from .packed_writer import Packed

MODEL = ENGINES["native"].model
_OF_A_LAYER, _BESIDE = 40, 16  # tensors, at most


@dataclass(frozen=True)
class NativeWriter:
    """Writes a guard of engine native by a recipe."""

    recipe: Recipe[Packed]

    @property
    def calibrated(self) -> bool:
        return self.recipe.calibrated

    def write(self, job: Job, calibration: Sequence[Pass], judged: Sequence[Pass]) -> Written:
        """Write the file. Raises CheckpointError for weights that are not finite, or that overflow on the prefix."""
        path, prompts = job.directory / MODEL, job.prompts
        scores = write_packed(
            job.checkpoint,
            job.arch,
            prompts.prefix,
            prompts.columns,
            self.recipe,
            path,
            calibration,
            judged,
            job.progress,
        )
        return Written({MODEL: file_entry(path)}, scores)


def write_packed(
    source: Checkpoint,
    arch: Architecture,
    prefix: Prefix,
    columns: Sequence[int],
    recipe: Recipe[Packed],
    path: Path,
    calibration: Sequence[Pass] = (),
    judged: Sequence[Pass] = (),
    progress: Progress = no_progress,
) -> list[Array]:
    """Write the file; returns the reference's scores of `judged`, each [S, V']. columns: token ids that are scored."""
    packed = Packed(path, arch.layers * _OF_A_LAYER + _BESIDE)
    try:
        ops = Ops(source, arch, packed, recipe, prefix, summed(arch.streamed, progress), calibration, judged)
        config = _config(ops, arch, recipe, len(prefix.tokens), len(columns))
        packed.weight("inv_freq", arch.inv_freq)
        packed.weight("signs.residual", signs(config.residual_block))
        packed.weight("signs.ffn", signs(config.ffn_block))
        if prefix.tokens:
            packed.weight("prefix.positions", depths(prefix.parents).astype(np.int32))
        scores = write_decoder(ops, arch, columns)
        packed.finish(config.metadata())
    finally:
        packed.close()
    return scores


def _config(ops: Ops, arch: Architecture, recipe: Recipe[Packed], prefix: int, columns: int) -> Config:
    return Config(
        layers=arch.layers,
        hidden=arch.hidden,
        heads=arch.heads,
        kv_heads=arch.kv_heads,
        head_dim=arch.head_dim,
        ffn=arch.ffn,
        vocab=arch.vocab,
        columns=columns,
        prefix=prefix,
        context=arch.context,
        eps=arch.eps,
        scale=arch.scale,
        softcap=arch.softcap or 0.0,
        final_softcap=arch.final_softcap or 0.0,
        activation=arch.kind.activation,
        post_norms=arch.kind.post_norms,
        head_norms=arch.kind.head_norms,
        embed_scale=math.sqrt(arch.hidden) if arch.kind.scaled_embedding else 1.0,
        windows=tuple(0 if window is None or window >= arch.context else window for window in arch.windows),
        quant=cast(Literal["int8", "int4"], recipe.name),
        residual_block=ops.block(arch.hidden, "residual"),
        heads_block=ops.block(arch.head_dim, "heads"),
        ffn_block=ops.block(arch.ffn, "ffn"),
    )
