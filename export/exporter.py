"""The main path of export: a checkpoint in, a guard directory out, or nothing."""

import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from guardpass import __version__
from guardpass.errors import CheckpointError, InputError
from guardpass.integrity import sha256
from guardpass.manifest import MANIFEST, SCHEMA, Engine, File, Manifest, Source, dumps

from .architecture import Architecture
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
    _check_target(out, force)
    source = Checkpoint(checkpoint)
    shape = read_architecture(source)
    tokenizer = CheckpointTokenizer(source)
    row = row or detect(tokenizer.split)
    prompts = build_prompts(row, Template(source), tokenizer)
    _check_vocabulary(shape, tokenizer, prompts)

    with _directory(out) as partial, ThreadPoolExecutor(1) as hasher:
        # Hashing the source takes as long as reading it, so it runs beside the conversion.
        hashes = hasher.submit(lambda: {path.name: _file(path) for path in source.files()})
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
            source=Source(*_provenance(checkpoint), shape.kind.name, hashes.result()),
            files=files,
        )
        # The manifest is what makes the directory a guard, so it comes last.
        (partial / MANIFEST).write_bytes(dumps(manifest))
    return manifest


def _check_target(out: Path, force: bool) -> None:
    if not out.is_symlink() and not out.exists():
        return
    if not force:
        raise InputError(f"{out} exists; choose another --out, or replace it with --force")
    # --force is for guards: a mistyped path must not cost anyone a folder.
    if out.is_symlink() or not (out / MANIFEST).is_file():
        raise InputError(f"{out} exists and is no guard; --force replaces guards only, choose another --out")


def _write_model(
    source: Checkpoint, shape: Architecture, prompts: Prompts, quant: str, directory: Path, progress: Progress
) -> File:
    done, total = 0, sum(_size(s) for name, s in shape.shapes().items() if len(s) == 2 and name != "lm_head.weight")

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
def _directory(out: Path) -> Iterator[Path]:
    """A temporary sibling that becomes `out` when the block ends well, and vanishes when it does not."""
    out = out.absolute()
    partial = out.with_name(f".{out.name}.partial-{secrets.token_hex(4)}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        with _interruptible():
            yield partial
            for path in [*partial.iterdir(), partial]:
                _sync(path)
        if out.exists():
            retired = partial.with_name(partial.name + ".old")
            out.rename(retired)
            partial.rename(out)
            shutil.rmtree(retired)
        else:
            partial.rename(out)
        _sync(out.parent)
    except OSError as error:
        raise InputError(
            f"cannot read or write {error.filename or out}: {error.strerror}; nothing was exported"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that a stopped export leaves no gigabytes behind."""

    def stop(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    try:
        previous = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread, where signals are the program's own affair
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _file(path: Path) -> File:
    return File(sha256(path), path.stat().st_size)


def _size(shape: tuple[int, ...]) -> int:
    return shape[0] * shape[1]


def _provenance(checkpoint: Path) -> tuple[str, str | None]:
    """Name and commit. The hub's cache keeps a checkpoint as models--ORG--NAME/snapshots/COMMIT."""
    path = checkpoint.resolve()
    if path.parent.name == "snapshots":
        return path.parent.parent.name.removeprefix("models--").replace("--", "/"), path.name
    return path.name, None
