"""tokenizer.json and guard.json: the manifest is drafted before the model is written, and written last."""

import os
from pathlib import Path

from guardpass import __version__
from guardpass.errors import CheckpointError, InputError
from guardpass.format.manifest import MANIFEST, SCHEMA, Engine, Manifest, Role, Source
from guardpass.format.manifest_io import dumps
from guardpass.format.tree import depths
from guardpass.format.validate import NODES, check
from guardpass.tokenizer import span_ids

from ..checkpoint.tokenizer import CheckpointTokenizer
from ..prompt.build import Prompts
from .file_entry import file_entry


def draft(
    directory: Path,
    engine: Engine,
    source: Source,
    family: str,
    prompts: Prompts,
    tokenizer: CheckpointTokenizer,
    *,
    name: str,
    context: int,
    vocab: int,
) -> Manifest:
    """Write tokenizer.json; returns the manifest without the model's files and the gate's report."""
    path = directory / "tokenizer.json"
    path.write_text(tokenizer.content_json, encoding="utf-8")
    return Manifest(
        schema=SCHEMA,
        guardpass=__version__,
        name=name,
        family=family,
        engine=engine,
        context=context,
        vocab=vocab,
        labels=prompts.labels,
        columns=prompts.columns,
        prefix=prompts.prefix,
        modes=prompts.modes,
        reserved=prompts.reserved,
        literals=prompts.literals,
        source=source,
        gate=None,
        ungated="asked",
        files={path.name: file_entry(path)},
    )


def write_manifest(directory: Path, manifest: Manifest) -> Manifest:
    """Write guard.json. Raises CheckpointError where `Guard.load` would not open it."""
    try:
        check(manifest)
    except ValueError as error:
        raise CheckpointError(f"the checkpoint and its family make no guard: {error}") from None
    # The manifest is what makes the directory a guard, so it comes last.
    (directory / MANIFEST).write_bytes(dumps(manifest))
    return manifest


def check_sizes(vocab: int, context: int, tokenizer: CheckpointTokenizer, prompts: Prompts) -> None:
    """Raises CheckpointError where the tokenizer or the prompts do not fit the model."""
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


def guard_name(name: str | None, out: Path) -> str:
    """The guard's name: `name`, or the name of the directory `out`.

    Raises InputError for a name that logs and metrics cannot show, or that a server takes for NAME:STYLE or a path.
    """
    # Not resolved: the name is the one that the user wrote, also where it is a link.
    chosen = Path(os.path.abspath(out)).name if name is None else name
    if not chosen.strip() or not chosen.isprintable() or any(mark in chosen for mark in ":/"):
        what_to_do = "choose another name" if name is not None else "give the guard another name with --name"
        raise InputError(
            f"name is {chosen!r:.80}, expected printable text on one line without colon and slash; {what_to_do}"
        )
    return chosen
