"""The settings of `guardpass serve`, and their defaults."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import InputError
from ..format.codec import decode, encode
from ..format.manifest import Device
from ..on_error import OnError
from ..request import Normalize
from ..windows import LongText

Unjudged = Literal["block", "allow"]


@dataclass(frozen=True)
class Settings:
    """guards: PATH, or NAME=PATH. Times are in seconds. The first guard answers where no model is named."""

    guards: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8080
    api_key_file: str | None = None
    without_key: bool = False  # allow other than loopback addresses without a key
    max_queue: int = 64  # waiting requests of a guard
    max_queue_tokens: int = 1 << 16
    deadline: float = 10.0
    workers: int = 1
    threads: int | None = None
    device: Device | None = None
    verify: bool = True
    in_memory: bool = False
    max_tokens: int | None = None
    max_windows: int = 16
    long_text: LongText = "windows"
    normalize: Normalize = "on"
    on_error: OnError = "raise"
    unjudged: Unjudged = "block"  # images and all else that is not text: refused, or left out and listed in the answer
    max_body: int = 1 << 20  # bytes
    max_items: int = 64  # texts of one request
    body_timeout: float = 10.0
    notice: float = 1.0  # how long a server that stops still takes requests, while /ready says no
    drain: float = 30.0  # how long it then answers the requests it took

    def check(self) -> None:
        """Raises InputError for settings that no server can have, or should have."""
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
        for chosen, path in self.paths():
            if ":" in (chosen or ""):
                raise InputError(
                    f"the guard's name {chosen} has a colon, which separates a name from an answer style; "
                    f"choose a name without a colon, as in NAME={path}"
                )
        if self.api_key_file is None and not self.without_key and not _loopback(self.host):
            raise InputError(
                f"other machines can reach {self.host}, and there is no --api-key-file; add one, or --without-key if "
                "a proxy in front of the server checks keys"
            )

    def paths(self) -> list[tuple[str | None, Path]]:
        """Each guard's NAME, where it has one, and its directory."""
        pairs: list[tuple[str | None, Path]] = []
        for argument in self.guards:
            name, equals, path = argument.partition("=")
            pairs.append((name, Path(path)) if equals and "/" not in name else (None, Path(argument)))
        return pairs

    def to_json(self) -> object:
        """The settings as JSON, for `from_json`."""
        return encode(self)

    @classmethod
    def from_json(cls, value: object) -> "Settings":
        """The settings in JSON of `to_json`. Raises ValueError."""
        return decode(cls, value)


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
