"""A peer at a setting, as a worker; and the fastest of the settings that are swept."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .environments import python_of
from .errors import PeerError
from .protocol import Question
from .table import Peer, Setting
from .worker import Worker


@dataclass(frozen=True)
class Tried:
    """One way of a sweep: median ms of its answers, or why there are none."""

    options: dict[str, Any]
    ms: float | None
    error: str | None = None


def worker(
    peer: Peer, setting: Setting, path: Path, work: Path, *, threads: int, affinity: Sequence[int] | None = None
) -> Worker:
    """The worker of a setting, not yet started; `path` is what `files.prepare` made, or a guard directory.

    Where the setting has a sweep, its first way is taken. Raises PeerMissing.
    """
    options = {**setting.options, **(setting.sweep[0] if setting.sweep else {}), "path": str(path)}
    return Worker(peer.script, options, threads=threads, python=python_of(peer, work), affinity=affinity)


def best(
    peer: Peer,
    setting: Setting,
    path: Path,
    work: Path,
    questions: Sequence[Question],
    *,
    threads: int,
    affinity: Sequence[int] | None = None,
) -> tuple[Setting, tuple[Tried, ...]]:
    """The setting with the fastest way of its sweep, by the median over `questions` (the first one only warms up).

    Its name tells which that is. Raises PeerError where no way works.
    """
    tried: list[Tried] = []
    for options in setting.sweep if len(setting.sweep) > 1 else ():
        one = replace(setting, sweep=(options,))
        try:
            with worker(peer, one, path, work, threads=threads, affinity=affinity) as running:
                answers = [answer for question in questions for answer in running.ask([question])][1:]
        except PeerError as error:
            tried.append(Tried(dict(options), None, str(error)))
            if len(tried) == len(setting.sweep) and not any(each.ms for each in tried):
                raise
            continue
        tried.append(Tried(dict(options), statistics.median((a["ended"] - a["started"]) * 1e3 for a in answers)))
    if not tried:
        return setting, ()
    fastest = min((each for each in tried if each.ms is not None), key=lambda each: each.ms or 0.0)
    shown = ", ".join(f"{name} {_shown(value)}" for name, value in fastest.options.items())
    return replace(setting, name=f"{setting.name}, {shown}", sweep=(fastest.options,)), tuple(tried)


def _shown(value: object) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
