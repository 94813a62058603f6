"""The options of `Guard.load`: checks them, and keeps them so that another process can reopen the guard."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from .engines.base import Engine
from .errors import EngineError, GuardError, InputError
from .format.integrity import open_guard
from .format.manifest import Device, Manifest
from .windows import LongText


@dataclass(frozen=True)
class Opening:
    """The arguments of `Guard.load` and the manifest it read. directory: absolute."""

    directory: Path
    manifest: Manifest
    verify: bool
    options: dict[str, Any]

    def prove(self) -> None:
        """Raises GuardError unless the directory still holds the same guard, intact."""
        if open_guard(self.directory, verify=self.verify) != self.manifest:
            raise GuardError(f"{self.directory} holds another guard than when it was opened; load it anew")

    def engine(self, opened: Callable[[], Engine]) -> Engine:
        """Open the engine again, in a forked process. Raises EngineError, GuardError."""
        if (self.options["device"] or self.manifest.engine.device) == "cuda":
            raise EngineError(
                "a GPU cannot be used by a process that was forked after it was; load the guard in the child, or start "
                "the process with spawn"
            )
        self.prove()
        return opened()


def check_options(
    manifest: Manifest,
    threads: int | None,
    device: str | None,
    max_tokens: int | None,
    max_windows: int,
    long_text: str,
) -> None:
    """Raises InputError for options out of range."""
    counts = (
        ("max_tokens", max_tokens, manifest.context),
        ("max_windows", max_windows, 1 << 20),
        ("threads", threads, 1 << 10),
    )
    for name, value, limit in counts:
        if value is not None and (type(value) is not int or not 1 <= value <= limit):
            raise InputError(f"{name} is {value!r}, expected a whole number from 1 to {limit}")
    if long_text not in get_args(LongText):
        raise InputError(f"long_text is {long_text!r}, expected one of: {', '.join(get_args(LongText))}")
    if device not in (None, *get_args(Device)):
        raise InputError(f"device is {device!r}, expected one of: {', '.join(get_args(Device))}")
