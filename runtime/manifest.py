"""guard.json: all that passes from export to runtime."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from .errors import GuardError
from .schema import decode, encode

SCHEMA = 1
MANIFEST = "guard.json"
_SEAL = re.compile(rb'\A\{\n "sha256": "([0-9a-f]{64})"')
_SIZES = range(1, 1 << 44)
_COUNTS = range(1, 1 << 24)
_NODES = 1 << 13  # of a prefix or a tree; masks are square in them
_NEEDED = {"model.onnx", "tokenizer.json"}

Strip = Literal["none", "left", "right", "both"]
Role = Literal["prompt", "response"]
Quant = Literal["fp32", "int8", "int4"]
Mode = Role  # a mode is named after the last role it judges


@dataclass(frozen=True)
class Label:
    """One answer a guard may give."""

    name: str  # "UNSAFE-S4"
    token: str  # "<UNSAFE-S4>"
    id: int  # token id in the checkpoint's vocabulary
    unsafe: bool
    category: str | None  # what it means, "crime"
    openai: str | None  # the nearest category of OpenAI's moderation API


@dataclass(frozen=True)
class Piece:
    """A part of the span: static text, or (where `role` is set) content, stripped as the template does."""

    text: str
    role: Role | None = None
    strip: Strip = "none"


@dataclass(frozen=True)
class Slot:
    """A tree node whose next-token scores decide `field` among `labels` (indices into Manifest.labels)."""

    node: int
    field: str
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Tree:
    """Static tokens after the span; a node sees the prefix, the span and its ancestors (parent -1: the span)."""

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    slots: tuple[Slot, ...]


@dataclass(frozen=True)
class ModeSpec:
    """How one mode is put together: `prefix . span . tree`.

    `prefix` lists baked columns, root first. The last `lead` of them are ordinary text that the span begins
    with; the span's own ids are matched against those, and columns that do not match are masked out.
    """

    prefix: tuple[int, ...]
    lead: int
    span: tuple[Piece, ...]
    tree: Tree


@dataclass(frozen=True)
class Prefix:
    """The baked columns: a trie of token ids shared by all modes (parent -1: a root)."""

    tokens: tuple[int, ...]
    parents: tuple[int, ...]


@dataclass(frozen=True)
class File:
    """Size in bytes and SHA-256 of a file."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Engine:
    """What runs the model file, and what is in it."""

    name: Literal["onnx"]
    quant: Quant
    device: Literal["cpu"]


@dataclass(frozen=True)
class Source:
    """Where the weights came from. `files` maps the checkpoint's file names to what they held."""

    name: str
    revision: str | None
    architecture: str
    files: dict[str, File]


@dataclass(frozen=True)
class Manifest:
    """The content of guard.json, less the seal that protects it."""

    schema: int
    guardpass: str  # version that wrote it
    name: str
    family: str
    engine: Engine
    context: int  # positions the checkpoint was made for
    vocab: int  # token ids are below this
    labels: tuple[Label, ...]
    prefix: Prefix
    modes: dict[str, ModeSpec]
    reserved: tuple[int, ...]  # control and verdict tokens: never among content ids
    literals: tuple[str, ...]  # texts a guard's prompt is made of; suspicious inside content
    source: Source
    files: dict[str, File]


def dumps(manifest: Manifest) -> bytes:
    """The bytes of guard.json: canonical JSON, sealed by the SHA-256 of itself with the seal zeroed."""
    body = {"sha256": "0" * 64, **encode(manifest)}
    blank = (json.dumps(body, ensure_ascii=False, indent=1) + "\n").encode()
    return blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode(), 1)


def loads(data: bytes) -> Manifest:
    """Read guard.json. Raises GuardError for another schema, a broken seal, or content that contradicts itself."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise GuardError(f"{MANIFEST} is not JSON ({error}); export the guard again") from None
    schema = body.get("schema") if isinstance(body, dict) else None
    if schema != SCHEMA or isinstance(schema, bool):
        raise GuardError(
            f"{MANIFEST} has schema {schema!r}, this guardpass reads schema {SCHEMA}; "
            "export the guard again, or install the guardpass that wrote it"
        )
    seal = _SEAL.match(data)
    if not seal or hashlib.sha256(data.replace(seal[1], b"0" * 64, 1)).hexdigest().encode() != seal[1]:
        raise GuardError(f"{MANIFEST} was altered: its content does not match its own sha256; export again")
    body.pop("sha256")
    try:
        manifest = decode(Manifest, body)
        _check(manifest)
    except ValueError as error:
        raise GuardError(f"{MANIFEST} is not a valid manifest: {error}") from None
    return manifest


def _check(m: Manifest) -> None:
    """References stay inside what they refer to, so that no later index can fail."""
    if m.context not in _COUNTS or m.vocab not in _COUNTS:
        raise ValueError(f"context, vocab: expected positive counts, found {m.context}, {m.vocab}")
    _ids("labels", (label.id for label in m.labels), m.vocab)
    _ids("prefix.tokens", m.prefix.tokens, m.vocab)
    _ids("reserved", m.reserved, m.vocab)
    _parents("prefix", m.prefix.parents, len(m.prefix.tokens))
    if not m.modes or not m.modes.keys() <= {"prompt", "response"}:
        raise ValueError(f"modes: expected prompt and/or response, found {sorted(m.modes)}")
    if len({label.id for label in m.labels}) != len(m.labels):
        raise ValueError("labels: expected distinct token ids")
    if not {label.id for label in m.labels} <= set(m.reserved):
        raise ValueError("reserved: expected every label's token among them")
    if not all(m.literals):
        raise ValueError("literals: expected no empty text")
    for name, mode in m.modes.items():
        where = f"modes.{name}"
        _ids(f"{where}.prefix", mode.prefix, len(m.prefix.tokens))
        _ids(f"{where}.tree.tokens", mode.tree.tokens, m.vocab)
        _parents(f"{where}.tree", mode.tree.parents, len(mode.tree.tokens))
        _ids(f"{where}.lead", [mode.lead], len(mode.prefix) + 1)
        if [m.prefix.parents[column] for column in mode.prefix] != [-1, *mode.prefix][: len(mode.prefix)]:
            raise ValueError(f"{where}.prefix: expected a chain from a root, each column the parent of the next")
        if len(mode.prefix) >= m.context:
            raise ValueError(f"{where}.prefix: {len(mode.prefix)} tokens leave nothing of a context of {m.context}")
        roles = [piece.role for piece in mode.span if piece.role]
        expected = ["prompt"] if name == "prompt" else ["prompt", "response"]
        if sorted(roles) != expected or any(piece.role and piece.text for piece in mode.span):
            raise ValueError(f"{where}.span: expected content {expected}, found {roles}")
        if len(mode.tree.slots) != 1:
            raise ValueError(f"{where}.tree.slots: expected one slot, found {len(mode.tree.slots)}")
        for slot in mode.tree.slots:
            _ids(f"{where}.slot.node", [slot.node], len(mode.tree.tokens))
            _ids(f"{where}.slot.labels", slot.labels, len(m.labels))
            if {m.labels[index].unsafe for index in slot.labels} != {True, False}:
                raise ValueError(f"{where}.slot.labels: expected at least one safe and one unsafe label")
    if not m.files.keys() >= _NEEDED:
        raise ValueError(f"files: expected {sorted(_NEEDED)} among them, found {sorted(m.files)}")
    for file_name, file in m.files.items():
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", file_name) or file_name == MANIFEST:
            raise ValueError(f"files: {file_name!r} is not a plain file name")
        if file.size not in _SIZES or not re.fullmatch("[0-9a-f]{64}", file.sha256):
            raise ValueError(f"files.{file_name}: size or sha256 out of range")


def _ids(path: str, values: Iterable[int], limit: int) -> None:
    for value in values:
        if not 0 <= value < limit:
            raise ValueError(f"{path}: expected numbers from 0 to {limit - 1}, found {value}")


def _parents(path: str, parents: tuple[int, ...], count: int) -> None:
    if count > _NODES:
        raise ValueError(f"{path}: expected at most {_NODES} tokens, found {count}")
    if len(parents) != count or any(not -1 <= parent < node for node, parent in enumerate(parents)):
        raise ValueError(f"{path}.parents: expected {count} parents, each before its child")
