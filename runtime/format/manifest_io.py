"""Reads and writes guard.json: canonical JSON with a checksum, the SHA-256 of the file itself."""

import hashlib
import json
import re

from ..errors import GuardError
from .codec import decode, encode
from .manifest import MANIFEST, SCHEMA, Manifest
from .validate import check

_CHECKSUM = re.compile(rb'\A\{\n "sha256": "([0-9a-f]{64})"')


def dumps(manifest: Manifest) -> bytes:
    """The bytes of guard.json. The checksum covers the file with a checksum of zeros."""
    body = {"sha256": "0" * 64, **encode(manifest)}
    blank = (json.dumps(body, ensure_ascii=False, indent=1) + "\n").encode()
    return blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode(), 1)


def loads(data: bytes) -> Manifest:
    """Read guard.json. Raises GuardError for another schema, a wrong checksum, or inconsistent content."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise GuardError(f"{MANIFEST} is not JSON ({error}); export the guard again") from None
    schema = body.get("schema") if isinstance(body, dict) else None
    if schema != SCHEMA or isinstance(schema, bool):
        raise GuardError(
            f"{MANIFEST} has schema {schema!r}, this guardpass reads schema {SCHEMA}; "
            "export the guard again, or install the guardpass that wrote it"
        )
    checksum = _CHECKSUM.match(data)
    if not checksum or hashlib.sha256(data.replace(checksum[1], b"0" * 64, 1)).hexdigest().encode() != checksum[1]:
        raise GuardError(f"{MANIFEST} was altered: its content does not match its own sha256; export again")
    body.pop("sha256")
    try:
        manifest = decode(Manifest, body)
        check(manifest)
    except ValueError as error:
        raise GuardError(f"{MANIFEST} is not a valid manifest: {error}") from None
    return manifest
