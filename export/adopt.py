"""A GGUF that someone else made, as a guard: the manifest comes from the file's own tokenizer and chat template."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast, get_args

from guardpass.engines.llamacpp import LlamaCppEngine
from guardpass.errors import CheckpointError
from guardpass.gguf_file import Header, read_header
from guardpass.manifest import MANIFEST, Engine, File, Manifest, Quant, Source

from .checkpoint.files import Folder
from .checkpoint.tokenizer import CheckpointTokenizer
from .export import check_date
from .families import detect, find
from .families.schema import Family
from .families.toml_file import with_policies
from .guard_dir.atomic import check_target, new_directory
from .guard_dir.manifest import check_sizes, draft, finish
from .guard_dir.progress import Progress
from .prompt.build import build_prompts
from .prompt.template import template_text
from .to_gguf.quantize import QUANTS
from .to_gguf.vocab import from_gguf, splitting_of
from .to_gguf.write import MODEL, prove_vocabulary

_CHUNK = 8 << 20
_FILE_TYPES = {0: "f32", 1: "f16", 32: "bf16"} | {number: name for name, number in QUANTS.items() if number}


def adopt_gguf(
    model: Path,
    out: Path,
    *,
    family: str | Family | None = None,
    policies: Sequence[str] = (),
    date: str | None = None,
    force: bool = False,
    progress: Progress = lambda _done, _total: None,
) -> Manifest:
    """Make the guard directory `out` of a copy of `model`, byte for byte; returns what guard.json says.

    Options are those of `export_guard`; progress is told bytes copied and bytes in all. llama.cpp opens the copy
    once, so that what it cannot run is refused here. Raises CheckpointError, InputError, MissingDependency.
    """
    row = find(family) if isinstance(family, str) else family
    check_date(date)
    check_target(out, MANIFEST if force else None)
    with new_directory(out) as partial, TemporaryDirectory(prefix="adopt-") as scratch:
        copied = _copy(model, partial / MODEL, progress)
        header = _header(partial / MODEL, model.name)
        files = Folder(Path(scratch))
        for name, content in zip(("tokenizer.json", "tokenizer_config.json"), from_gguf(header.metadata), strict=True):
            (files.directory / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        tokenizer = CheckpointTokenizer(files)
        prove_vocabulary(partial / MODEL, splitting_of(header.metadata), tokenizer)
        name = str(header.metadata.get("general.name") or model.stem)
        added = [token.content for token in tokenizer.added.values()]
        row = with_policies(row or detect(name, template_text(files), added, tokenizer.split), policies)
        prompts = build_prompts(row, files, tokenizer, date)
        context, vocab = header.metadata[f"{header.architecture}.context_length"], len(header.tokens)
        check_sizes(vocab, context, tokenizer, prompts)
        quant = _FILE_TYPES.get(header.metadata.get("general.file_type", -1), "other")
        engine = Engine("llamacpp", cast(Quant, quant if quant in get_args(Quant) else "other"), "cpu")
        source = Source(name, None, header.architecture, {model.name: copied})
        begun = draft(partial, engine, source, row.name, prompts, tokenizer, context=context, vocab=vocab)
        manifest = finish(partial, replace(begun, files=begun.files | {MODEL: copied}, ungated="adopted"))
        LlamaCppEngine(partial / MODEL, manifest, threads=None, max_tokens=256, device="cpu")
    return manifest


def _copy(model: Path, path: Path, progress: Progress) -> File:
    digest, size = hashlib.sha256(), 0
    try:
        total = model.stat().st_size
        with model.open("rb") as file, path.open("wb") as copy:
            while data := file.read(_CHUNK):
                digest.update(data)
                copy.write(data)
                size += len(data)
                progress(size, total)
    except OSError as error:
        raise CheckpointError(f"cannot copy {model}: {error.strerror}") from None
    return File(digest.hexdigest(), size)


def _header(path: Path, name: str) -> Header:
    try:
        return read_header(path)
    except ValueError as error:
        raise CheckpointError(f"{name} is no GGUF that can be opened safely: {error}") from None
