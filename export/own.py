"""The route of our own table: the model written, and tried against the checkpoint it came from."""

from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path

from guardpass.errors import InputError
from guardpass.guard import DEFAULT_MAX_TOKENS
from guardpass.manifest import Engine, Manifest, Ungated
from guardpass.passes import Pass

from .checkpoint.architecture import Architecture
from .checkpoint.files import Array, Checkpoint
from .checkpoint.tokenizer import CheckpointTokenizer
from .decoder.recipe import Recipe
from .gate.compare import cases, default_flip_rate, judge, passes
from .gate.engine import opened
from .gate.texts import Texts, built_in, read_texts
from .guard_dir.progress import Progress
from .prompt.build import Prompts
from .targets import check_installed, row_of
from .to_gguf.write import write_gguf
from .to_native.write import write_native
from .to_onnx.write import reference_scores, write_onnx

_JUDGED_TOKENS, _ACTIVATIONS = 1 << 15, 1 << 28
CALIBRATION_TOKENS = 1 << 12  # the walk carries them all; more gain little
_STEPS = 1000


@dataclass(frozen=True)
class Gating:
    """What the gate is to judge and to allow; without texts, why there is no gate."""

    texts: Texts | None
    max_flip_rate: float
    ungated: Ungated | None

    @classmethod
    def of(cls, gate: bool, texts: Path | None, rate: float | None, engine: Engine) -> "Gating":
        """The caller's options. Raises InputError, and MissingDependency where no engine could run the gate."""
        quant = engine.quant
        whole = quant in ("fp32", "f32")
        if whole or not gate:
            why = f"{quant} is not quantized" if gate else "there is to be no gate"
            for name, value in (("gate_texts", texts), ("max_flip_rate", rate)):
                if value is not None:
                    raise InputError(f"{name} is {value}, and {why}; leave one of them out")
            return cls(None, 0, "unquantized" if whole else "asked")
        rate = default_flip_rate(quant) if rate is None else rate
        if isinstance(rate, bool) or not isinstance(rate, Real) or not 0 <= rate <= 1:
            raise InputError(f"max_flip_rate is {rate!r}, expected a share from 0 to 1")
        check_installed(engine)
        return cls(read_texts(texts) if texts else built_in("gate"), float(rate), None)


def write_model(
    source: Checkpoint,
    shape: Architecture,
    tokenizer: CheckpointTokenizer,
    prompts: Prompts,
    begun: Manifest,
    gating: Gating,
    directory: Path,
    progress: Progress,
) -> Manifest:
    """Write and try the model; returns `begun` with its files and its gate. Raises CheckpointError and GateError."""
    quant, recipe = begun.engine.quant, row_of(begun.engine).quants[begun.engine.quant]
    # What a gigabyte of an MLP's activations holds: it bounds memory, and the other number the time of small models.
    most = min(_JUDGED_TOKENS, _ACTIVATIONS // shape.ffn)
    shown: list[Pass] = []
    if isinstance(recipe, Recipe) and recipe.calibrated:
        shown = passes(built_in("calibration"), begun, directory, CALIBRATION_TOKENS)
        most -= sum(each.tokens.size for each in shown)
    tried = [] if gating.texts is None else cases(gating.texts, begun, directory, most)
    judged = [case.request for case in tried]
    if begun.engine.name == "llamacpp":
        parts = 3 if tried else 1
        files = write_gguf(source, shape, tokenizer, begun.name, quant, directory, _part(progress, 0, parts))
        reference = _reference(source, shape, prompts, judged, _part(progress, 1, parts))
    else:
        parts = 2 if tried else 1
        told = _part(progress, 0, parts)
        write = write_native if begun.engine.name == "native" else write_onnx
        files, reference = write(source, shape, prompts, recipe, directory, shown, judged, told)
    done = replace(begun, files=begun.files | files, ungated=gating.ungated)
    if gating.texts is None:
        return done
    told = _part(progress, parts - 1, parts)
    longest = min(done.context, DEFAULT_MAX_TOKENS)
    engine, device = opened(directory, done, longest)
    found = []
    for number, request in enumerate(judged, start=1):
        found.append(engine.run(request)[0])
        told(number, len(judged))
    return replace(done, gate=judge(tried, reference, found, gating.texts, gating.max_flip_rate, device))


def _reference(
    source: Checkpoint, shape: Architecture, prompts: Prompts, judged: list[Pass], progress: Progress
) -> list[Array]:
    return reference_scores(source, shape, prompts.prefix, prompts.columns, judged, progress) if judged else []


def _part(progress: Progress, number: int, parts: int) -> Progress:
    """Progress of one of several parts, as progress of the whole."""
    return lambda done, total: progress(number * _STEPS + done * _STEPS // total, parts * _STEPS)
