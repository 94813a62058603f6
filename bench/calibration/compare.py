"""Several guards on the same texts: where their verdicts differ."""

import os
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from guardpass import Guard
from guardpass.errors import InputError
from guardpass.integrity import open_guard
from guardpass.manifest import Device

from ..extras import make_folder, need
from .comparison import Comparison, Flip, Judge, Pair, Side, letter
from .labelled_lines import Line, Lines, read_texts
from .plots import draw_pair


def compare(
    guards: Sequence[str | os.PathLike[str]],
    texts: str | os.PathLike[str],
    *,
    argmax: bool = False,
    plots: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    device: Device | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Comparison:
    """Judge the lines of `texts` (JSONL, see `lines.read_texts`) by each guard as `check` does, by its thresholds too.

    One guard is open at a time. argmax: leave the guards' thresholds aside. plots: a folder for PNG files, of the
    first guard's scores against each other's. progress: told of checks done, and in all.
    Raises InputError, MissingDependency, GuardError and EngineError.
    """
    directories = [Path(guard) for guard in guards]
    if len(directories) < 2:
        raise InputError(f"found {len(directories)} guards, expected two or more to compare")
    if plots is not None:
        need("drawing plots", "matplotlib")
    given = read_texts(Path(texts))
    judges = tuple(_judge(directory, given, argmax) for directory in directories)
    if plots is not None:
        make_folder(Path(plots))

    verdicts: list[list[Side]] = []
    for directory in directories:
        opened = Guard.load(directory, threads=threads, device=device)
        verdicts.append([])
        for line in given.lines:
            verdicts[-1].append(_side(opened, given, line, argmax))
            progress(sum(map(len, verdicts)), len(given.lines) * len(directories))
        del opened  # before the next one takes its memory

    safe = np.array([[side.safe for side in sides] for sides in verdicts])
    scores = np.array([[side.score for side in sides] for sides in verdicts])
    drawn = []
    for second in range(1, len(directories)) if plots is not None else ():
        drawn.append(Path(plots or "") / f"scores-A-{letter(second)}.png")
        names = [_name(at, directories[at]) for at in (0, second)]
        draw_pair(drawn[-1], names, scores[[0, second]], safe[0] != safe[second])
    agreement = [[float((one == other).mean()) for other in safe] for one in safe]
    pairs = []
    for a, b in combinations(range(len(directories)), 2):
        changes = np.abs(scores[a] - scores[b])
        flips = _flips(given, verdicts[a], verdicts[b])
        pairs.append(Pair(a, b, agreement[a][b], float(changes.mean()), float(changes.max()), flips))
    return Comparison(
        judges, len(given.lines), given.sha256, tuple(map(tuple, agreement)), tuple(pairs), tuple(map(str, drawn))
    )


def _judge(directory: Path, given: Lines, argmax: bool) -> Judge:
    """Raises InputError where the guard lacks a mode of the lines."""
    specs = open_guard(directory, verify=False).modes
    thresholds: dict[str, dict[str, float]] = {
        mode: {name: each.score for name, each in specs[mode].thresholds.items()}
        for mode in given.modes(specs, str(directory))
    }
    return Judge(str(directory), {} if argmax else thresholds)


def _name(place: int, guard: Path) -> str:
    """For a picture, whose font has Latin letters only."""
    return f"{letter(place)}: {guard.name}" if guard.name.isascii() else letter(place)


def _side(guard: Guard, given: Lines, line: Line, argmax: bool) -> Side:
    try:
        verdict = guard.check(line.text, line.response, threshold={} if argmax else None)
    except InputError as error:
        raise type(error)(f"{given.path} line {line.number}: {error}") from None
    return Side(verdict.safe, verdict.field, verdict.label, verdict.score, verdict.margin)


def _flips(given: Lines, first: list[Side], second: list[Side]) -> tuple[Flip, ...]:
    return tuple(
        Flip(line.number, line.id, one, other)
        for line, one, other in zip(given.lines, first, second, strict=True)
        if one.safe != other.safe
    )
