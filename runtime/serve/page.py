"""The page at /, with a policy that allows its own script and style alone."""

import base64
import hashlib
import re
from importlib.resources import files

PAGE: bytes = files(__package__).joinpath("page.html").read_bytes()


def _hash(tag: bytes) -> str:
    """The CSP source of the page's inline script or style."""
    match = re.search(rb"<" + tag + rb">(.*?)</" + tag + rb">", PAGE, re.DOTALL)
    digest = hashlib.sha256(match[1] if match else b"").digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


PAGE_HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; script-src {_hash(b'script')}; style-src {_hash(b'style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
