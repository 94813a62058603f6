"""Ways to break a checkpoint or a guard, and the proof that it was refused."""

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from guardpass import Guard, GuardError, GuardpassError
from guardpass.export import export_guard
from guardpass.format.integrity import sha256
from guardpass.format.manifest import File
from guardpass.format.manifest_io import dumps, loads

from .helpers import files

Change = Callable[[Path], None]
SIREN = "siren: one-sided template"  # untied, two shards, one mode: the quickest to export
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"
DEEP = "[" * 100_000


def broken_copy(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of a checkpoint, to be broken."""
    return Path(shutil.copytree(checkpoint(SIREN), tmp_path / "source" / "twin"))


def refuse_to_export(source: Path, out: Path, error: type[GuardpassError], says: str, **options: Any) -> None:
    """The export ends in `error`, says so, and leaves the target's directory as it was."""
    out.parent.mkdir(exist_ok=True)
    before = files(out.parent)
    with pytest.raises(error, match=says) as caught:
        export_guard(source, out, quant="fp32", **options)
    assert type(caught.value) is error
    assert files(out.parent) == before


def set_json(name: str, **changes: Any) -> Change:
    """Set keys of a JSON file; ... removes one."""

    def change(source: Path) -> None:
        body = json.loads((source / name).read_text()) | changes
        kept = {key: value for key, value in body.items() if value is not ...}
        (source / name).write_text(json.dumps(kept))

    return change


def set_config(**changes: Any) -> Change:
    return set_json("config.json", **changes)


def write(name: str, content: str | bytes) -> Change:
    return lambda source: _ignore(
        (source / name).write_bytes(content.encode() if isinstance(content, str) else content)
    )


def remove(name: str) -> Change:
    return lambda source: (source / name).unlink()


def _ignore(_value: object) -> None: ...


def cut(name: str, size: int) -> Change:
    return lambda source: _ignore((source / name).write_bytes((source / name).read_bytes()[:size]))


def lie(name: str, change: Callable[[dict[str, Any]], object], shard: int = 0) -> Change:
    """Lie about a tensor in a shard's header; its bytes stay."""

    def apply(source: Path) -> None:
        path = source / SHARDS[shard]
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        change(header[name] if name else header)
        encoded = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data[8 + length :])

    return apply


def reindex(change: Callable[[dict[str, str]], object]) -> Change:
    def apply(source: Path) -> None:
        body = json.loads((source / INDEX).read_text())
        change(body["weight_map"])
        (source / INDEX).write_text(json.dumps(body))

    return apply


def poison(name: str, value: float, row: int) -> Change:
    """One bf16 weight becomes `value`."""

    def apply(source: Path) -> None:
        path = source / json.loads((source / INDEX).read_text())["weight_map"][name]
        data = bytearray(path.read_bytes())
        (length,) = struct.unpack("<Q", data[:8])
        entry = json.loads(data[8 : 8 + length])[name]
        at = 8 + length + entry["data_offsets"][0] + 2 * (row * entry["shape"][-1] + 7)
        data[at : at + 2] = np.array(value, ml_dtypes.bfloat16).tobytes()
        path.write_bytes(data)

    return apply


def copied(two_sided: Path, tmp_path: Path) -> Path:
    """A copy of a guard, to be broken."""
    return Path(shutil.copytree(two_sided, tmp_path / "copy"))


def refuse_to_load(directory: Path, says: str, error: type[Exception] = GuardError) -> None:
    for verify in (True, False):
        with pytest.raises(error, match=says) as caught:
            Guard.load(directory, verify=verify)
        assert type(caught.value) is error


def seal(directory: Path) -> None:
    """Write guard.json anew, for the files that are there."""
    manifest = loads((directory / "guard.json").read_bytes())
    files = {name: File(sha256(directory / name), (directory / name).stat().st_size) for name in manifest.files}
    (directory / "guard.json").write_bytes(dumps(replace(manifest, files=files)))
