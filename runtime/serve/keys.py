"""API keys: one a line in a file, compared in constant time."""

import hashlib
import hmac
from pathlib import Path

from ..errors import InputError
from .errors import Unauthorized

_SHORTEST = 16  # characters


class Keys:
    """The valid keys; without any, every request is let in."""

    def __init__(self, path: str | None) -> None:
        """Raises InputError for a file that cannot be read, has no key, or has one under 16 characters."""
        self._digests: tuple[bytes, ...] = ()
        if path is None:
            return
        try:
            lines = [line.strip() for line in Path(path).read_text().splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the API keys in {path}: {error}") from None
        keys = [line for line in lines if line and not line.startswith("#")]
        if not keys or min(map(len, keys)) < _SHORTEST:
            raise InputError(f"{path}: expected one key a line, each of {_SHORTEST} characters or more")
        self._digests = tuple(hashlib.sha256(key.encode()).digest() for key in keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, authorization: str | None, x_api_key: str | None) -> None:
        """Check `Authorization: Bearer KEY` or `x-api-key: KEY`. Raises Unauthorized."""
        if not self._digests:
            return
        scheme, _, token = (authorization or "").partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else x_api_key or ""
        digest = hashlib.sha256(key.encode(errors="surrogateescape")).digest()
        # Every digest is compared, and all have one length.
        if not sum([hmac.compare_digest(digest, valid) for valid in self._digests]):
            raise Unauthorized(
                "the request has no valid API key; expected `Authorization: Bearer KEY` or `x-api-key: KEY`"
            )
