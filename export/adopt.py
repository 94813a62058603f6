"""A GGUF that someone else made, as a guard: the manifest comes from the file's own tokenizer and chat template."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast, get_args

from guardpass.engines.llamacpp.engine import LlamaCppEngine
from guardpass.errors import CheckpointError
from guardpass.format.gguf_header import Header, read_header
from guardpass.format.manifest import MANIFEST, Engine, File, Manifest, Quant, Source

from .checkpoint.files import Folder
from .checkpoint.template_files import template_text
from .checkpoint.tokenizer import CheckpointTokenizer
from .export import check_date
from .families import detect, find
from .families.schema import Family
from .families.toml_file import with_policies
from .guard_dir.atomic import check_target, new_directory
from .guard_dir.manifest import check_sizes, draft, guard_name, write_manifest
from .guard_dir.progress import Progress, no_progress
from .prompt.build import build_prompts
from .to_gguf.quantize import QUANTS
from .to_gguf.vocab import from_gguf, splitting_of
from .to_gguf.write import MODEL, prove_vocabulary

_CHUNK = 8 << 20
_FILE_TYPES = {0: "f32", 1: "f16", 32: "bf16"} | {number: name for name, number in QUANTS.items() if number}


def adopt_gguf(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    family: str | Family | None = None,
    policies: Sequence[str] = (),
    date: str | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> Manifest:
    """Make a guard of a GGUF that someone else quantized: its bytes as they are, and a manifest.

    llama.cpp opens the copy once, so a file that it cannot run is refused here. The export is all or nothing: where
    it raises, `out` is as it was.

    Args:
        model: The GGUF file, with its tokenizer and chat template.
        out: The guard directory to write.
        name: The guard's name in logs, metrics and servers (default: the name of the directory `out`).
        family: How the guard is prompted and what its answers mean: a name out of `FAMILIES`, or a `Family`. By
            default the model's name, tokens and chat template tell.
        policies: More policies to judge by, each as "name=Title: description".
        date: The date, as YYYY-MM-DD, for a chat template that prints today's.
        force: Whether to replace a guard that is at `out` already.
        progress: A callback that gets the bytes copied and the bytes in all.

    Returns:
        The manifest, as guard.json has it.

    Raises:
        CheckpointError: The file is damaged, or the guard's prompt cannot be derived from it exactly.
        EngineError: llama.cpp cannot run the model.
        InputError: An option is wrong, or `out` exists.
        MissingDependency: llama-cpp-python is not installed.
    """
    model, out = Path(model), Path(out)
    row = find(family) if isinstance(family, str) else family
    check_date(date)
    name = guard_name(name, out)
    check_target(out, MANIFEST if force else None)
    with new_directory(out) as partial, TemporaryDirectory(prefix="adopt-") as scratch:
        copied = _copy(model, partial / MODEL, progress)
        header = _header(partial / MODEL, model.name)
        files = Folder(Path(scratch))
        for file, content in zip(("tokenizer.json", "tokenizer_config.json"), from_gguf(header.metadata), strict=True):
            (files.directory / file).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        tokenizer = CheckpointTokenizer(files)
        prove_vocabulary(partial / MODEL, splitting_of(header.metadata), tokenizer)
        published = str(header.metadata.get("general.name") or model.stem)
        added = [token.content for token in tokenizer.added.values()]
        row = with_policies(row or detect(published, template_text(files), added, tokenizer.split), policies)
        prompts = build_prompts(row, files, tokenizer, date)
        context, vocab = header.metadata[f"{header.architecture}.context_length"], len(header.tokens)
        check_sizes(vocab, context, tokenizer, prompts)
        quant = _FILE_TYPES.get(header.metadata.get("general.file_type", -1), "other")
        engine = Engine("llamacpp", cast(Quant, quant if quant in get_args(Quant) else "other"), "cpu")
        source = Source(published, None, header.architecture, {model.name: copied}, tuple(files.notes))
        manifest = draft(partial, engine, source, row.name, prompts, tokenizer, name=name, context=context, vocab=vocab)
        manifest = replace(manifest, files=manifest.files | {MODEL: copied}, ungated="adopted")
        write_manifest(partial, manifest)
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
