"""The main path of export: a checkpoint in, a guard directory out, or nothing."""

import datetime
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from guardpass.errors import CheckpointError, InputError
from guardpass.manifest import MANIFEST, Device, File, Manifest, Source

from .checkpoint.config import read_architecture
from .checkpoint.files import Checkpoint
from .checkpoint.tokenizer import CheckpointTokenizer
from .families import detect, find
from .families.schema import Family
from .families.toml_file import with_policies
from .guard_dir.atomic import check_target, new_directory
from .guard_dir.manifest import check_sizes, draft, finish
from .guard_dir.progress import Progress, Written
from .own import Gating, write_model
from .prompt.build import Prompts, build_prompts, unbaked
from .prompt.template import template_text
from .targets import Asked, Via, check_fits, choose
from .to_gguf.model import context_of
from .via_optimum.export import write_via_optimum

_HASHED = 8 << 20  # bytes at a time


def export_guard(
    checkpoint: Path,
    out: Path,
    *,
    family: str | Family | None = None,
    policies: Sequence[str] = (),
    date: str | None = None,
    engine: Asked = "onnx",
    quant: str | None = None,
    device: Device = "cpu",
    via: Via = "own",
    gate: bool = True,
    gate_texts: Path | None = None,
    max_flip_rate: float | None = None,
    force: bool = False,
    progress: Progress = lambda _done, _total: None,
) -> Manifest:
    """Compile a checkpoint directory into the guard directory `out`; returns what guard.json says.

    family: a row of the families table, or its name; None detects it. policies: more to judge by, each given as
    `name=Title: description`. date: YYYY-MM-DD, which is today to a chat template that asks. engine: what will run
    the guard: "onnx", "native" (guardpass-kernels), "llamacpp" (or "gguf"), or "auto", see `engines.choose`.
    quant: of onnx fp32, int8 (default) or int4; of native the last two; of llamacpp one of `gguf_quantize.QUANTS`
    (default q8_0); of onnx on cuda bf16 (default), fp16 or fp32. device: what the guard is for, "cpu" or "cuda".
    via: "own" for the architectures of our table; "optimum" for any that optimum-onnx exports, at fp32 and with
    nothing baked. gate: let the quantized guard judge texts (`gate_texts`, JSONL of text and maybe response, or the
    built-in ones) beside the original weights in fp32, and refuse a larger share of flipped verdicts than
    `max_flip_rate` (default 0.05 for four bits, else 0.02).
    force: replace an existing `out`. progress is told work done and work in all.

    Raises CheckpointError (TemplateError among them) for a checkpoint that cannot be exported exactly, GateError for a
    guard that flips too much, InputError for bad options or an existing `out`, and MissingDependency where the gate
    has no engine to run; in every case `out` is as it was.
    """
    chosen = choose(engine, quant, via, device)
    row = find(family) if isinstance(family, str) else family
    check_date(date)
    check_target(out, MANIFEST if force else None)
    source = Checkpoint(checkpoint)
    shape = read_architecture(source) if via == "own" else None
    if shape:
        check_fits(chosen, shape)
    gating = Gating.of(gate, gate_texts, max_flip_rate, chosen)
    tokenizer = CheckpointTokenizer(source)
    name, revision = _provenance(checkpoint)
    added = [token.content for token in tokenizer.added.values()]
    row = with_policies(row or detect(name, template_text(source), added, tokenizer.split), policies)
    prompts = build_prompts(row, source, tokenizer, date)
    if shape:
        check_sizes(shape.vocab, shape.context, tokenizer, prompts)

    with new_directory(out) as partial, _hashing(source.files()) as hashes:
        if shape:
            origin = Source(name, revision, shape.kind.name, {})
            context = context_of(shape) if chosen.name == "llamacpp" else shape.context
            begun = draft(partial, chosen, origin, row.name, prompts, tokenizer, context=context, vocab=shape.vocab)
            done = write_model(source, shape, tokenizer, prompts, begun, gating, partial, progress)
        else:
            model = write_via_optimum(checkpoint, partial, prompts.columns)
            check_sizes(model.vocab, model.context, tokenizer, prompts)
            _check_chains(model, prompts)
            origin = Source(name, revision, model.architecture, {})
            begun = draft(
                partial, chosen, origin, row.name, unbaked(prompts), tokenizer, context=model.context,
                vocab=model.vocab,
            )  # fmt: skip
            done = replace(begun, files=begun.files | model.files, ungated=gating.ungated)
        return finish(partial, replace(done, source=replace(done.source, files=hashes())))


def _check_chains(model: Written, prompts: Prompts) -> None:
    slots = max(len(mode.tree.slots) for mode in prompts.modes.values())
    if not model.tree_mask and slots > 1:
        raise CheckpointError(
            f"the graph of {model.architecture} keeps a mask of its own, so it can run an answer of one slot and not "
            f"of {slots}; choose a family with one slot, or a checkpoint of an architecture of our own table"
        )


def check_date(date: str | None) -> None:
    """Raises InputError for what is not a day of the calendar."""
    try:
        known = date is None or datetime.date.fromisoformat(date).isoformat() == date
    except ValueError:
        known = False
    if not known:
        raise InputError(f"date is {date!r}, expected YYYY-MM-DD, a day of the calendar")


@contextmanager
def _hashing(paths: list[Path]) -> Iterator[Callable[[], dict[str, File]]]:
    """Hash files beside the conversion, as it takes as long as reading them; a conversion that fails stops it."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as hasher:
        found = hasher.submit(lambda: {path.name: _hashed(path, stop) for path in paths})
        try:
            yield found.result
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
