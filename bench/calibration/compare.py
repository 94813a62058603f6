"""`guardpass compare`: several guards judge the same texts, and where their verdicts differ."""

import os
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from guardpass import Guard
from guardpass.errors import InputError
from guardpass.format.integrity import open_guard
from guardpass.format.manifest import Device

from ..extras import make_folder, need
from .comparison import ComparedGuard, Comparison, Flip, Pair, Side, letter
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
    """Judge the lines of `texts` by each guard as `check` does, with its thresholds.

    texts: JSONL, a line {"text", "response"?, "id"?}. argmax: ignore the guards' thresholds. plots: a folder for PNG
    files, which show the first guard's scores against those of each other guard. progress: called with the checks done
    and the checks in all. One guard is open at a time.

    Raises InputError, MissingDependency, GuardError and EngineError.
    """
    directories = [Path(guard) for guard in guards]
    if len(directories) < 2:
        raise InputError(f"found {len(directories)} guards, expected two or more to compare")
    if plots is not None:
        need("drawing plots", "matplotlib")
    lines = read_texts(Path(texts))
    compared = tuple(_compared(directory, lines, argmax) for directory in directories)
    if plots is not None:
        make_folder(Path(plots))

    verdicts: list[list[Side]] = []
    for directory in directories:
        opened = Guard.load(directory, threads=threads, device=device)
        verdicts.append([])
        for line in lines.lines:
            verdicts[-1].append(_side(opened, lines, line, argmax))
            progress(sum(map(len, verdicts)), len(lines.lines) * len(directories))
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
        flips = _flips(lines, verdicts[a], verdicts[b])
        pairs.append(Pair(a, b, agreement[a][b], float(changes.mean()), float(changes.max()), flips))
    return Comparison(
        compared, len(lines.lines), lines.sha256, tuple(map(tuple, agreement)), tuple(pairs), tuple(map(str, drawn))
    )


def _compared(directory: Path, lines: Lines, argmax: bool) -> ComparedGuard:
    """Raises InputError where the guard lacks a mode of the lines."""
    specs = open_guard(directory, verify=False).modes
    thresholds: dict[str, dict[str, float]] = {
        mode: {name: threshold.score for name, threshold in specs[mode].thresholds.items()}
        for mode in lines.modes(specs, str(directory))
    }
    return ComparedGuard(str(directory), {} if argmax else thresholds)


def _name(place: int, guard: Path) -> str:
    """A guard's name in a plot, whose font has Latin letters only."""
    return f"{letter(place)}: {guard.name}" if guard.name.isascii() else letter(place)


def _side(guard: Guard, lines: Lines, line: Line, argmax: bool) -> Side:
    try:
        verdict = guard.check(line.text, line.response, threshold={} if argmax else None)
    except InputError as error:
        raise type(error)(f"{lines.path} line {line.number}: {error}") from None
    return Side(verdict.safe, verdict.field, verdict.label, verdict.score, verdict.margin)


def _flips(lines: Lines, first: list[Side], second: list[Side]) -> tuple[Flip, ...]:
    return tuple(
        Flip(line.number, line.id, one, other)
        for line, one, other in zip(lines.lines, first, second, strict=True)
        if one.safe != other.safe
    )
