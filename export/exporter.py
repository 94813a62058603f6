"""The main path of export: a checkpoint in, a guard directory out, or nothing."""

import hashlib
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from guardpass import __version__
from guardpass.errors import CheckpointError, InputError
from guardpass.integrity import sha256
from guardpass.manifest import MANIFEST, SCHEMA, Engine, File, Manifest, Source, dumps

from .architecture import Architecture
from .atomic import check_target, new_directory
from .checkpoint import Checkpoint
from .config import read_architecture
from .decoder import inputs, outputs, write_decoder
from .families import detect, family
from .graph import Graph
from .ops import Ops
from .prompt import Prompts, build_prompts
from .quantize import RECIPES
from .template import Template
from .tokenizer import CheckpointTokenizer

Progress = Callable[[int, int], None]
_HASHED = 8 << 20  # bytes at a time


def export_guard(
    checkpoint: Path,
    out: Path,
    *,
    family_name: str | None = None,
    quant: str = "int8",
    force: bool = False,
    progress: Progress = lambda _done, _total: None,
) -> Manifest:
    """Compile a checkpoint directory into the guard directory `out`; returns what guard.json says.

    family_name: a row of the families table; None detects it. quant: fp32, int8 or int4. force: replace an
    existing `out`. progress is told weights done and weights in all.

    Raises CheckpointError (TemplateError among them) for a checkpoint that cannot be exported exactly, and
    InputError for bad options or an existing `out`; in every case `out` is as it was.
    """
    if quant not in RECIPES:
        raise InputError(f"quant is {quant!r}, expected one of: {', '.join(RECIPES)}")
    row = family(family_name) if family_name is not None else None
    check_target(out, MANIFEST if force else None)
    source = Checkpoint(checkpoint)
    shape = read_architecture(source)
    tokenizer = CheckpointTokenizer(source)
    row = row or detect(tokenizer.split)
    prompts = build_prompts(row, Template(source), tokenizer)
    _check_vocabulary(shape, tokenizer, prompts)

    with new_directory(out) as partial, _hashing(source.files()) as hashes:
        files = {"model.onnx.data": _write_model(source, shape, prompts, quant, partial, progress)}
        (partial / "tokenizer.json").write_text(tokenizer.content_json, encoding="utf-8")
        files |= {name: _file(partial / name) for name in ("model.onnx", "tokenizer.json")}
        manifest = Manifest(
            schema=SCHEMA,
            guardpass=__version__,
            name=_provenance(checkpoint)[0],
            family=row.name,
            engine=Engine("onnx", RECIPES[quant].name, "cpu"),
            context=shape.context,
            vocab=shape.vocab,
            labels=prompts.labels,
            prefix=prompts.prefix,
            modes=prompts.modes,
            reserved=prompts.reserved,
            literals=prompts.literals,
            source=Source(*_provenance(checkpoint), shape.kind.name, hashes()),
            files=files,
        )
        # The manifest is what makes the directory a guard, so it comes last.
        (partial / MANIFEST).write_bytes(dumps(manifest))
    return manifest


def _write_model(
    source: Checkpoint, shape: Architecture, prompts: Prompts, quant: str, directory: Path, progress: Progress
) -> File:
    done, total = 0, sum(math.prod(s) for name, s in shape.shapes().items() if len(s) == 2 and name != "lm_head.weight")

    def advance(weights: int) -> None:
        nonlocal done
        done += weights
        progress(done, total)

    graph = Graph(directory / "model.onnx.data")
    try:
        ops = Ops(source, shape, graph, RECIPES[quant], prompts.prefix, advance)
        write_decoder(ops, shape, [label.id for label in prompts.labels])
        digest, size = graph.finish(
            directory / "model.onnx", inputs(len(prompts.prefix.tokens)), outputs(len(prompts.labels))
        )
    finally:
        graph.close()
    return File(digest, size)


def _check_vocabulary(shape: Architecture, tokenizer: CheckpointTokenizer, prompts: Prompts) -> None:
    largest = max(tokenizer.full.get_vocab().values())
    if largest >= shape.vocab:
        raise CheckpointError(
            f"the tokenizer has id {largest}, and config.json a vocabulary of {shape.vocab}; "
            "they belong to different models"
        )
    longest = max(len(mode.prefix) + len(mode.tree.tokens) for mode in prompts.modes.values())
    if longest >= shape.context:
        raise CheckpointError(f"the template alone takes {longest} tokens, and the context is {shape.context}")


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
