"""API keys: a line each in a file, compared without telling by time how much of one was right."""

import hashlib
import hmac
from pathlib import Path

from ..errors import InputError
from .errors import Unauthorized

_SHORTEST = 16  # characters


class Keys:
    """The keys that are let in; with none, everyone is."""

    def __init__(self, path: str | None) -> None:
        """Raises InputError for a file that cannot be read, or has no key of 16 characters or more."""
        self._digests: tuple[bytes, ...] = ()
        if path is None:
            return
        try:
            lines = [line.strip() for line in Path(path).read_text().splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the API keys in {path}: {error}") from None
        keys = [line for line in lines if line and not line.startswith("#")]
        if not keys or min(map(len, keys)) < _SHORTEST:
            raise InputError(f"{path}: expected keys of {_SHORTEST} characters or more, one a line")
        self._digests = tuple(hashlib.sha256(key.encode()).digest() for key in keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, authorization: str | None, x_api_key: str | None) -> None:
        """Take `Authorization: Bearer KEY`, or `x-api-key: KEY`. Raises Unauthorized."""
        if not self._digests:
            return
        scheme, _, token = (authorization or "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else x_api_key or ""
        digest = hashlib.sha256(given.encode(errors="surrogateescape")).digest()
        # All are compared, and digests are of one length.
        if not sum([hmac.compare_digest(digest, known) for known in self._digests]):
            raise Unauthorized("no valid API key was sent; expected `Authorization: Bearer KEY` or `x-api-key: KEY`")
