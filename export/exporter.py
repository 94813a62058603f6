"""The main path of export: a checkpoint in, a guard directory out, or nothing."""

import datetime
import hashlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from guardpass import __version__
from guardpass.consistency import NODES, check
from guardpass.content import span_ids
from guardpass.errors import CheckpointError, InputError
from guardpass.integrity import sha256
from guardpass.manifest import MANIFEST, SCHEMA, Engine, File, Manifest, Role, Source
from guardpass.seal import dumps
from guardpass.tree import depths

from .architecture import Architecture
from .atomic import check_target, new_directory
from .checkpoint import Checkpoint
from .config import read_architecture
from .decoder import inputs, outputs, write_decoder
from .families import detect, find
from .family import Family
from .family_file import with_policies
from .graph import Graph
from .ops import Ops
from .optimum import write_via_optimum
from .prompt import Prompts, build_prompts, unbaked
from .quantize import RECIPES
from .template import template_text
from .tokenizer import CheckpointTokenizer
from .written import Written

Progress = Callable[[int, int], None]
Via = Literal["own", "optimum"]
_HASHED = 8 << 20  # bytes at a time


def export_guard(
    checkpoint: Path,
    out: Path,
    *,
    family: str | Family | None = None,
    policies: Sequence[str] = (),
    date: str | None = None,
    quant: str = "int8",
    via: Via = "own",
    force: bool = False,
    progress: Progress = lambda _done, _total: None,
) -> Manifest:
    """Compile a checkpoint directory into the guard directory `out`; returns what guard.json says.

    family: a row of the families table, or its name; None detects it. policies: more to judge by, each given as
    `name=Title: description`. date: YYYY-MM-DD, which is today to a chat template that asks. quant: fp32, int8 or
    int4. via: "own" for the architectures of our table; "optimum" for any that optimum-onnx exports, at fp32 and with
    nothing baked. force: replace an existing `out`. progress is told weights done and weights in all.

    Raises CheckpointError (TemplateError among them) for a checkpoint that cannot be exported exactly, and
    InputError for bad options or an existing `out`; in every case `out` is as it was.
    """
    if via not in get_args(Via):
        raise InputError(f"via is {via!r}, expected one of: {', '.join(get_args(Via))}")
    row = find(family) if isinstance(family, str) else family
    _check_date(date)
    check_target(out, MANIFEST if force else None)
    source = Checkpoint(checkpoint)
    shape = read_architecture(source) if via == "own" else None
    if shape:
        _check_quant(quant, shape.kind.refuses)
    elif quant != "fp32":
        raise InputError(f"quant is {quant!r}, expected fp32: what optimum exports is not quantized")
    tokenizer = CheckpointTokenizer(source)
    name, revision = _provenance(checkpoint)
    added = [token.content for token in tokenizer.added.values()]
    row = with_policies(row or detect(name, template_text(source), added, tokenizer.split), policies)
    prompts = build_prompts(row, source, tokenizer, date)
    if shape:
        _check_sizes(shape.vocab, shape.context, tokenizer, prompts)

    with new_directory(out) as partial, _hashing(source.files()) as hashes:
        if shape:
            model = _write_model(source, shape, prompts, quant, partial, progress)
        else:
            model = write_via_optimum(checkpoint, partial, prompts.columns)
            _check_sizes(model.vocab, model.context, tokenizer, prompts)
            _check_chains(model, prompts)
            prompts = unbaked(prompts)
        files = {"model.onnx.data": File(model.digest, model.size)}
        (partial / "tokenizer.json").write_text(tokenizer.content_json, encoding="utf-8")
        files |= {name: _file(partial / name) for name in ("model.onnx", "tokenizer.json")}
        manifest = Manifest(
            schema=SCHEMA,
            guardpass=__version__,
            name=name,
            family=row.name,
            engine=Engine("onnx", RECIPES[quant].name, "cpu"),
            context=model.context,
            vocab=model.vocab,
            labels=prompts.labels,
            columns=prompts.columns,
            prefix=prompts.prefix,
            modes=prompts.modes,
            reserved=prompts.reserved,
            literals=prompts.literals,
            source=Source(name, revision, model.architecture, hashes()),
            files=files,
        )
        _check_manifest(manifest)
        # The manifest is what makes the directory a guard, so it comes last.
        (partial / MANIFEST).write_bytes(dumps(manifest))
    return manifest


def _write_model(
    source: Checkpoint, shape: Architecture, prompts: Prompts, quant: str, directory: Path, progress: Progress
) -> Written:
    done, total = 0, sum(math.prod(s) for name, s in shape.shapes().items() if len(s) == 2 and name != "lm_head.weight")

    def advance(weights: int) -> None:
        nonlocal done
        done += weights
        progress(done, total)

    graph = Graph(directory / "model.onnx.data")
    try:
        ops = Ops(source, shape, graph, RECIPES[quant], prompts.prefix, advance)
        write_decoder(ops, shape, prompts.columns)
        digest, size = graph.finish(
            directory / "model.onnx", inputs(len(prompts.prefix.tokens)), outputs(len(prompts.columns))
        )
    finally:
        graph.close()
    return Written(digest, size, shape.kind.name, shape.context, shape.vocab)


def _check_manifest(manifest: Manifest) -> None:
    """What export writes, load opens."""
    try:
        check(manifest)
    except ValueError as error:
        raise CheckpointError(f"the checkpoint and its family make no guard: {error}") from None


def _check_quant(quant: str, refused: Mapping[str, str]) -> None:
    if quant in refused:
        raise InputError(f"quant {quant} is refused for this architecture: {refused[quant]}")
    if quant not in RECIPES:
        raise InputError(f"quant is {quant!r}, expected one of: {', '.join(RECIPES)}")


def _check_sizes(vocab: int, context: int, tokenizer: CheckpointTokenizer, prompts: Prompts) -> None:
    largest = max(tokenizer.full.get_vocab().values())
    if largest >= vocab:
        raise CheckpointError(
            f"the tokenizer has id {largest}, and config.json a vocabulary of {vocab}; they belong to different models"
        )
    empty: dict[Role, str] = {"prompt": "", "response": ""}
    for mode in prompts.modes.values():
        span = len(span_ids(mode.span, empty, tokenizer.content_ids)) - mode.lead
        longest = len(mode.prefix) + span + int(depths(mode.tree.parents).max()) + 1
        if longest >= context:
            raise CheckpointError(f"the prompt alone takes {longest} tokens, and the context is {context}")
        tokens = max(len(mode.tree.tokens), len(prompts.prefix.tokens))
        if tokens > NODES:
            raise CheckpointError(f"the prompts take {tokens} tokens, expected at most {NODES}; name fewer policies")


def _check_chains(model: Written, prompts: Prompts) -> None:
    slots = max(len(mode.tree.slots) for mode in prompts.modes.values())
    if not model.tree_mask and slots > 1:
        raise CheckpointError(
            f"the graph of {model.architecture} keeps a mask of its own, so it can run an answer of one slot and not "
            f"of {slots}; choose a family with one slot, or a checkpoint of an architecture of our own table"
        )


def _check_date(date: str | None) -> None:
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


def _file(path: Path) -> File:
    return File(sha256(path), path.stat().st_size)


def _provenance(checkpoint: Path) -> tuple[str, str | None]:
    """Name and commit. The hub's cache keeps a checkpoint as models--ORG--NAME/snapshots/COMMIT."""
    path = checkpoint.resolve()
    if path.parent.name == "snapshots":
        return path.parent.parent.name.removeprefix("models--").replace("--", "/"), path.name
    return path.name, None
