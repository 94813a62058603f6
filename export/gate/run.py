"""The gate's two steps: choose passes before the model is written, judge them with the guard after that."""

from collections.abc import Sequence
from dataclasses import dataclass

from guardpass.format.manifest import Gate, Manifest
from guardpass.guard import DEFAULT_MAX_TOKENS
from guardpass.plan import Pass

from ..checkpoint.files import Array
from ..guard_dir.job import Job
from .compare import Case, cases, judge, passes
from .engine import open_gate_engine
from .options import GateOptions
from .texts import built_in

CALIBRATION_TOKENS = 1 << 12  # the walk carries them all; more gain little
_JUDGED_TOKENS = 1 << 15  # bounds the time of small models
_ACTIVATIONS = 1 << 28  # of an MLP, one gigabyte: bounds the memory of large ones


@dataclass(frozen=True)
class GatePasses:
    """What the checkpoint's own weights run beside the prefix: passes that correct weights, and the gate's cases."""

    calibration: Sequence[Pass]
    cases: Sequence[Case]

    @property
    def judged(self) -> list[Pass]:
        return [case.request for case in self.cases]


def choose_passes(job: Job, manifest: Manifest, options: GateOptions, *, calibrated: bool) -> GatePasses:
    """As many passes as memory and time allow. calibrated: whether the writer corrects weights by them.

    Raises InputError for texts of the caller's that do not fit.
    """
    budget = min(_JUDGED_TOKENS, _ACTIVATIONS // job.arch.ffn)
    calibration: list[Pass] = []
    if calibrated:
        calibration = passes(built_in("calibration"), manifest, job.directory, CALIBRATION_TOKENS)
        budget -= sum(request.tokens.size for request in calibration)
    texts = options.texts
    return GatePasses(calibration, cases(texts, manifest, job.directory, budget) if texts else [])


def run_gate(
    job: Job, manifest: Manifest, options: GateOptions, tried: Sequence[Case], reference: Sequence[Array]
) -> Gate:
    """Judge the cases with the guard's own engine. reference: the scores of the checkpoint's own weights.

    Raises GateError where more verdicts flip than the options allow, EngineError where the guard cannot run.
    """
    assert options.texts
    engine, device = open_gate_engine(job.directory, manifest, min(manifest.context, DEFAULT_MAX_TOKENS))
    scores: list[Array] = []
    for case in tried:
        scores.append(engine.run(case.request)[0])
        job.progress(len(scores), len(tried))
    return judge(tried, reference, scores, options.texts, options.max_flip_rate, device)
