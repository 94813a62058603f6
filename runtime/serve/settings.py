"""What `guardpass serve` was told."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import InputError
from ..format.codec import decode, encode
from ..on_error import OnError

Unjudged = Literal["block", "allow"]


@dataclass(frozen=True)
class Settings:
    """guards: PATH, or NAME=PATH. Times are in seconds. The first guard answers where no model is named."""

    guards: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8080
    api_key_file: str | None = None
    without_key: bool = False  # allow other than loopback addresses without a key
    max_queue: int = 64  # requests that wait, of each guard
    max_queue_tokens: int = 1 << 16
    deadline: float = 10.0
    workers: int = 1
    threads: int | None = None
    device: str | None = None
    verify: bool = True
    in_memory: bool = False
    max_tokens: int | None = None
    max_windows: int = 16
    long_text: str = "windows"
    normalize: str = "on"
    on_error: OnError = "raise"
    unjudged: Unjudged = "block"  # images and whatever else is no text: refused, or passed and listed in the answer
    max_body: int = 1 << 20  # bytes
    max_items: int = 64  # texts of one request
    body_timeout: float = 10.0
    notice: float = 1.0  # after a signal /ready says no, and requests are still taken, so long
    drain: float = 30.0  # then what was accepted may take so long

    def check(self) -> None:
        """Raises InputError for what cannot be served, or should not."""
        for name in ("max_queue", "max_queue_tokens", "workers", "max_body", "max_items"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', '-')} is {getattr(self, name)}, expected 1 or more")
        for name in ("deadline", "body_timeout", "drain"):
            if not 0 < getattr(self, name) < 86400:
                raise InputError(f"{name.replace('_', '-')} is {getattr(self, name)} s, expected more than 0")
        if not 0 <= self.notice < 86400:
            raise InputError(f"notice is {self.notice} s, expected 0 or more")
        if not 0 <= self.port < 65536:
            raise InputError(f"port is {self.port}, expected 0 to 65535")
        if not self.guards:
            raise InputError("no guard is named, expected one or more guard directories")
        for given, path in self.paths():
            if ":" in (given or ""):
                raise InputError(
                    f"the guard's name {given} has a colon, which parts a name from an answer style; "
                    f"give it a name without one, as in NAME={path}"
                )
        if self.api_key_file is None and not self.without_key and not _loopback(self.host):
            raise InputError(
                f"{self.host} can be reached from other machines and no --api-key-file is given; give one, or "
                "--without-key if something in front of the server asks for keys"
            )

    def paths(self) -> list[tuple[str | None, Path]]:
        """The name each guard was given, if any, and its directory."""
        found: list[tuple[str | None, Path]] = []
        for given in self.guards:
            name, equals, path = given.partition("=")
            found.append((name, Path(path)) if equals and "/" not in name else (None, Path(given)))
        return found

    def to_json(self) -> object:
        """What `from_json` reads."""
        return encode(self)

    @classmethod
    def from_json(cls, value: object) -> "Settings":
        """Raises ValueError."""
        return decode(cls, value)


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
