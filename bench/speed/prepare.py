"""What is benched, made ready: a guard, or a checkpoint or shape twin with the guards exported from it."""

import hashlib
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import guardpass.export
from guardpass.errors import InputError
from guardpass.export import export_guard, read_family
from guardpass.export.checkpoint.files import Checkpoint
from guardpass.export.guard_dir.atomic import new_directory
from guardpass.export.targets import ENGINES, choose
from guardpass.integrity import open_guard
from guardpass.manifest import MANIFEST, Engine
from guardpass.schema import encode

from .. import twin as twins
from .result import Weights

_RECORD = "exported.json"


@dataclass(frozen=True)
class Exported:
    """A guard of the subject. convert_s: seconds its export took; None where it was given."""

    engine: Engine
    path: Path
    mb: float
    convert_s: float | None


@dataclass(frozen=True)
class Prepared:
    """A subject: its name, whose weights those are, and what can be opened. guards: the first is the reference."""

    name: str
    weights: Weights
    layers: int | None
    checkpoint: Path | None
    guards: tuple[Exported, ...]


@dataclass(frozen=True)
class Options:
    """How checkpoints are exported and twins made."""

    family: str | None = None
    date: str | None = None
    layers: int | None = None
    tokenizer: Path | None = None


def prepare(target: str, quants: tuple[str, ...], work: Path, options: Options) -> Prepared:
    """`target`: a guard directory, a checkpoint directory, or the name of a published checkpoint.

    Twins and guards are kept in `work`; a guard is exported again where checkpoint, options or export's own code
    are others. Raises InputError for a target that is neither, and what an export raises.
    """
    path = Path(target)
    if (path / MANIFEST).exists():
        manifest = open_guard(path, verify=False)
        exported = Exported(manifest.engine, path, _mb(path), None)
        return Prepared(path.absolute().name, "guard", None, None, (exported,))
    if (path / "config.json").exists():
        guards = tuple(_guard(path, quant, work, options) for quant in quants)
        return Prepared(path.absolute().name, "checkpoint", None, path, guards)
    if path.exists():
        raise InputError(f"{target} has neither guard.json nor config.json, expected a guard or a checkpoint")
    row = twins.find(target)
    whole = row.config["num_hidden_layers"]
    layers = None if options.layers in (None, whole) else options.layers
    # The folder is called as the checkpoint is, since families are detected by that.
    folder = work / "twins" / (f"{layers}-layers" if layers else "whole") / row.name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        cut = replace(row, config=row.config | {"num_hidden_layers": layers or whole})
        twins.write_twin(cut, folder, tokenizer=options.tokenizer)
    chosen = replace(options, family=options.family or row.family, date=options.date or row.date)
    guards = tuple(_guard(folder, quant, work, chosen) for quant in quants)
    return Prepared(row.name, "twin", layers, folder, guards)


def _guard(checkpoint: Path, quant: str, work: Path, options: Options) -> Exported:
    engine = _engine(quant)
    key = _key(checkpoint, engine, options)
    folder = work / "guards" / f"{checkpoint.absolute().name}-{engine.name}-{engine.quant}-{key[:12]}"
    record = folder / _RECORD
    if not record.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        named = options.family
        family = read_family(Path(named)) if named and named.endswith(".toml") else named
        with new_directory(folder) as partial:
            start = time.perf_counter()
            export_guard(
                checkpoint, partial / "guard", family=family, date=options.date, engine=engine.name,
                quant=engine.quant, gate=False,
            )  # fmt: skip
            (partial / _RECORD).write_text(json.dumps({"convert_s": time.perf_counter() - start}))
    seconds: float = json.loads(record.read_text())["convert_s"]
    return Exported(engine, folder / "guard", _mb(folder / "guard"), seconds)


def _engine(quant: str) -> Engine:
    """Of a quant as `--quant` has it: "int8" (onnx), "native int8", "q8_0" (llamacpp)."""
    name, _, quant = quant.rpartition(" ")
    return choose(name or ("onnx" if quant in ENGINES["onnx"].quants else "llamacpp"), quant, "own")


def _key(checkpoint: Path, engine: Engine, options: Options) -> str:
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in Checkpoint(checkpoint).files()]
    (package,) = guardpass.export.__path__
    code = [path.read_text(encoding="utf-8") for path in sorted(Path(package).rglob("*.py"))]
    return hashlib.sha256(json.dumps([stats, encode(engine), options.family, options.date, code]).encode()).hexdigest()


def _mb(guard: Path) -> float:
    return sum(path.stat().st_size for path in guard.iterdir()) / 1e6
