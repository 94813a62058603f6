"""Prepares a target: a guard, or a checkpoint or shape twin with the guards exported from it."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import guardpass.export
from guardpass.errors import InputError
from guardpass.export import Family, export_guard, families, read_family
from guardpass.export.checkpoint.files import Checkpoint
from guardpass.export.export import check_date
from guardpass.export.guard_dir.atomic import new_directory
from guardpass.export.targets import choose
from guardpass.format.codec import encode
from guardpass.format.engines import ENGINES
from guardpass.format.integrity import open_guard
from guardpass.format.manifest import MANIFEST, Engine, Mode

from ... import twins
from ..report.schema import Weights

_RECORD = "exported.json"


@dataclass(frozen=True)
class Exported:
    """A guard of the subject. convert_s: seconds of its export; None for a guard that the user named."""

    engine: Engine
    path: Path
    mb: float
    convert_s: float | None


@dataclass(frozen=True)
class Prepared:
    """A subject: its name, the kind of its weights, and the files to open. The first of the guards is the reference."""

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


def check(targets: Sequence[str], quants: Sequence[str], options: Options, mode: Mode | None = None) -> None:
    """Raises InputError for what `prepare` would refuse later, after minutes of measuring: a target, quantization,
    family, date or tokenizer that does not exist, and a guard without the mode.
    """
    for target in targets:
        modes = open_guard(Path(target), verify=False).modes if _kind(target) == "guard" else {}
        if modes and mode not in (None, *modes):
            raise InputError(f"--mode is {mode}, and {target} judges {sorted(modes)}")
    for quant in quants:
        _engine(quant)
    if isinstance(family := _family(options), str):
        families.find(family)
    check_date(options.date)
    if options.tokenizer and not (options.tokenizer / "tokenizer.json").is_file():
        raise InputError(f"--tokenizer is {options.tokenizer}, expected a folder with a tokenizer.json")


def _kind(target: str) -> Weights:
    """What a target names. Raises InputError where it names nothing."""
    path = Path(target)
    if (path / MANIFEST).exists():
        return "guard"
    if (path / "config.json").exists():
        return "checkpoint"
    if path.exists():
        raise InputError(f"{target} has neither guard.json nor config.json, expected a guard or a checkpoint")
    names = [row.name for row in twins.TWINS]
    if target not in names:
        raise InputError(
            f"unknown checkpoint {target!r}, expected the folder of a guard or of a checkpoint, or one of: "
            + ", ".join(names)
        )
    return "twin"


def prepare(target: str, quants: tuple[str, ...], work: Path, options: Options) -> Prepared:
    """`target`: a guard directory, a checkpoint directory, or the name of a published checkpoint.

    Twins and guards are kept in `work`. A guard is exported again where checkpoint, options or the code of export
    differ. Raises InputError for a target that is none of these, and what an export raises.
    """
    path, kind = Path(target), _kind(target)
    if kind == "guard":
        manifest = open_guard(path, verify=False)
        exported = Exported(manifest.engine, path, _mb(path), None)
        return Prepared(path.absolute().name, "guard", None, None, (exported,))
    if kind == "checkpoint":
        guards = tuple(_guard(path, quant, work, options) for quant in quants)
        return Prepared(path.absolute().name, "checkpoint", None, path, guards)
    row = twins.find(target)
    whole = row.config["num_hidden_layers"]
    layers = None if options.layers in (None, whole) else options.layers
    # The folder has the checkpoint's name: families are detected by it.
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
        with new_directory(folder) as partial:
            start = time.perf_counter()
            export_guard(
                checkpoint,
                partial / "guard",
                family=_family(options),
                date=options.date,
                engine=engine.name,
                quant=engine.quant,
                gate=False,
            )
            (partial / _RECORD).write_text(json.dumps({"convert_s": time.perf_counter() - start}))
    seconds: float = json.loads(record.read_text())["convert_s"]
    return Exported(engine, folder / "guard", _mb(folder / "guard"), seconds)


def _engine(quant: str) -> Engine:
    """The engine of an item of `--quant`: "int8" (onnx), "native int8", "q8_0" (llamacpp). Raises InputError."""
    name, _, precision = quant.rpartition(" ")
    engine = choose(name or ("onnx" if precision in ENGINES["onnx"].quants["cpu"] else "llamacpp"), precision, "own")
    if precision not in ENGINES[engine.name].quants["cpu"]:
        precisions = "; ".join(f"{name}: {', '.join(spec.quants['cpu'])}" for name, spec in ENGINES.items())
        raise InputError(
            f"--quant has {quant!r}, expected a precision, or an engine and its precision, of: {precisions}"
        )
    return engine


def _family(options: Options) -> Family | str | None:
    """A row read from a TOML file, or the name of one, or None: detect it."""
    name = options.family
    return read_family(Path(name)) if name and name.endswith(".toml") else name


def _key(checkpoint: Path, engine: Engine, options: Options) -> str:
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in Checkpoint(checkpoint).files()]
    (package,) = guardpass.export.__path__
    code = [path.read_text(encoding="utf-8") for path in sorted(Path(package).rglob("*.py"))]
    return hashlib.sha256(json.dumps([stats, encode(engine), options.family, options.date, code]).encode()).hexdigest()


def _mb(guard: Path) -> float:
    return sum(path.stat().st_size for path in guard.iterdir()) / 1e6
