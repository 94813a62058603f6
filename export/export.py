"""The main path of export: a checkpoint in, a guard directory out, or nothing."""

import datetime
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from guardpass.errors import CheckpointError, InputError
from guardpass.format.manifest import MANIFEST, Device, File, Manifest, Quant, Source

from .checkpoint.config import read_architecture
from .checkpoint.files import Checkpoint
from .checkpoint.leftovers import note_leftovers
from .checkpoint.template_files import template_text
from .checkpoint.tokenizer import CheckpointTokenizer
from .checkpoint.twin_file import read_twin_file
from .choices import EngineChoice, Via
from .families import detect, find
from .families.schema import Family
from .families.toml_file import with_policies
from .gate.options import GateOptions
from .gate.run import choose_passes, run_gate
from .guard_dir.atomic import check_target, new_directory
from .guard_dir.job import Job
from .guard_dir.manifest import check_sizes, draft, guard_name, write_manifest
from .guard_dir.progress import Progress, no_progress, part
from .prompt.build import Prompts, build_prompts, unbaked
from .targets import check_fits, check_installed, choose, target_of
from .to_gguf.model import context_of
from .via_optimum.export import OptimumModel, write_via_optimum

_HASHED = 8 << 20  # bytes at a time


def export_guard(
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    family: str | Family | None = None,
    policies: Sequence[str] = (),
    date: str | None = None,
    engine: EngineChoice = "onnx",
    quant: Quant | None = None,
    device: Device = "cpu",
    via: Via = "own",
    gate: bool = True,
    gate_texts: str | os.PathLike[str] | None = None,
    max_flip_rate: float | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> Manifest:
    """Compile a checkpoint into a guard: a directory that `Guard.load` opens.

    The export is all or nothing: where it raises, `out` is as it was.

    Args:
        checkpoint: The Hugging Face directory: config.json, safetensors and tokenizer files.
        out: The guard directory to write.
        name: The guard's name in logs, metrics and servers (default: the name of the directory `out`).
        family: How the guard is prompted and what its answers mean: a name out of `FAMILIES`, or a `Family`. By
            default the checkpoint's name, tokens and chat template tell.
        policies: More policies to judge by, each as "name=Title: description".
        date: The date, as YYYY-MM-DD, for a chat template that prints today's.
        engine: The engine that will run the guard: "onnx", "native" (needs guardpass-kernels), "llamacpp" (or
            "gguf"), or "auto", which is native where its kernels are installed and made for this CPU, else onnx.
        quant: The precision. onnx: "fp32", "int8" (default) or "int4"; on CUDA "bf16" (default), "fp16" or "fp32".
            native: "int8" (default) or "int4". llamacpp: "f32", "f16", "bf16", "q8_0" (default), "q6_k", "q5_k_m",
            "q4_k_m", "q4_0" or "iq4_nl".
        device: The device that the guard is for. Only engine onnx needs an export of its own for "cuda".
        via: "own" for the architectures that guardpass knows; "optimum" for any that optimum-onnx exports, at fp32
            and with no prefix baked.
        gate: Whether the quantized guard judges texts beside the original weights in fp32 before it is released.
        gate_texts: JSONL lines {"text", "response"?} for the gate (default: built-in texts).
        max_flip_rate: The largest share of verdicts that quantization may flip (default: 0.05 at four bits, else
            0.02).
        force: Whether to replace a guard that is at `out` already.
        progress: A callback that gets the work done and the work in all.

    Returns:
        The manifest, as guard.json has it. Its `source.notes` report what is in the checkpoint and not in the guard.

    Raises:
        CheckpointError: The checkpoint cannot be exported exactly. TemplateError, a subclass, is about its chat
            template.
        GateError: More verdicts flip than `max_flip_rate` allows.
        EngineError: The engine cannot run the guard for the gate.
        InputError: An option is wrong, or `out` exists.
        MissingDependency: A package is not installed that the route or the gate needs.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    target = choose(engine, quant, via, device)
    row = find(family) if isinstance(family, str) else family
    check_date(date)
    name = guard_name(name, out)
    check_target(out, MANIFEST if force else None)
    source = Checkpoint(checkpoint)
    note_leftovers(source)
    row, date = _with_twin_file(source, row, date)
    arch = read_architecture(source) if via == "own" else None
    if arch:
        check_fits(target, arch)
    options = GateOptions.of(gate, None if gate_texts is None else Path(gate_texts), max_flip_rate, target.quant)
    if options.texts:
        check_installed(target)
    tokenizer = CheckpointTokenizer(source)
    published, revision = _provenance(checkpoint)
    added = [token.content for token in tokenizer.added.values()]
    row = with_policies(row or detect(published, template_text(source), added, tokenizer.split), policies)
    prompts = build_prompts(row, source, tokenizer, date)
    if arch:
        check_sizes(arch.vocab, arch.context, tokenizer, prompts)

    with new_directory(out) as partial, _hashing(source.files()) as hashes:
        if arch:
            job = Job(published, source, arch, tokenizer, prompts, partial, progress)
            context = context_of(arch) if target.name == "llamacpp" else arch.context
            origin, vocab = Source(published, revision, arch.kind.name, {}), arch.vocab
        else:
            model = write_via_optimum(checkpoint, partial, prompts.columns)
            check_sizes(model.vocab, model.context, tokenizer, prompts)
            _check_chains(model, prompts)
            prompts, context, vocab = unbaked(prompts), model.context, model.vocab
            origin = Source(published, revision, model.architecture, {})
        manifest = draft(partial, target, origin, row.name, prompts, tokenizer, name=name, context=context, vocab=vocab)
        if arch:
            manifest = _write_and_judge(job, manifest, options)
        else:
            manifest = replace(manifest, files=manifest.files | model.files, ungated=options.skipped)
        origin = replace(origin, files=hashes(), notes=tuple(source.notes))
        return write_manifest(partial, replace(manifest, source=origin))


def _write_and_judge(job: Job, manifest: Manifest, options: GateOptions) -> Manifest:
    """Write the model, then let the gate judge it; returns the manifest with both."""
    writer = target_of(manifest.engine).writer(manifest.engine.quant)
    tried = choose_passes(job, manifest, options, calibrated=writer.calibrated)
    parts = 2 if tried.cases else 1
    writing, judging = (replace(job, progress=part(job.progress, number, parts)) for number in (0, parts - 1))
    written = writer.write(writing, tried.calibration, tried.judged)
    manifest = replace(manifest, files={**manifest.files, **written.files}, ungated=options.skipped)
    if not tried.cases:
        return manifest
    return replace(manifest, gate=run_gate(judging, manifest, options, tried.cases, written.reference))


def _check_chains(model: OptimumModel, prompts: Prompts) -> None:
    slots = max(len(mode.tree.slots) for mode in prompts.modes.values())
    if not model.tree_mask and slots > 1:
        raise CheckpointError(
            f"the graph of {model.architecture} keeps a mask of its own, so it runs answers of one slot, and this "
            f"family's have {slots}; choose a family with one slot, or a checkpoint of an architecture of our own table"
        )


def _with_twin_file(source: Checkpoint, row: Family | None, date: str | None) -> tuple[Family | None, str | None]:
    """Family and date, taken from a twin's own file where they are not chosen."""
    twin, used = read_twin_file(source), []
    if row is None and twin.family is not None:
        row, used = find(twin.family), [f"family {twin.family}"]
    if date is None and twin.date is not None:
        check_date(twin.date)
        date, used = twin.date, [*used, f"date {twin.date}"]
    if used:
        source.note(f"the checkpoint is a twin with random weights; twin.json gives {' and '.join(used)}")
    return row, date


def check_date(date: str | None) -> None:
    """Raises InputError for what is not a day of the calendar."""
    try:
        valid = date is None or datetime.date.fromisoformat(date).isoformat() == date
    except ValueError:
        valid = False
    if not valid:
        raise InputError(f"date is {date!r}, expected YYYY-MM-DD, a day of the calendar")


@contextmanager
def _hashing(paths: list[Path]) -> Iterator[Callable[[], dict[str, File]]]:
    """Hash files beside the conversion, as it takes as long as reading them; a conversion that fails stops it."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as hasher:
        hashes = hasher.submit(lambda: {path.name: _hashed(path, stop) for path in paths})
        try:
            yield hashes.result
        finally:
            stop.set()


def _hashed(path: Path, stop: threading.Event) -> File:
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while not stop.is_set() and (data := file.read(_HASHED)):
                digest.update(data)
                size += len(data)
    except OSError as error:
        raise CheckpointError(f"cannot read {path.name} of the checkpoint: {error.strerror}") from None
    return File(digest.hexdigest(), size)


def _provenance(checkpoint: Path) -> tuple[str, str | None]:
    """Name and commit. The hub's cache keeps a checkpoint as models--ORG--NAME/snapshots/COMMIT."""
    path = checkpoint.resolve()
    if path.parent.name == "snapshots":
        return path.parent.parent.name.removeprefix("models--").replace("--", "/"), path.name
    return path.name, None
