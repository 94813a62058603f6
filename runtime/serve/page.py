"""The page at /, read once, with a policy that lets nothing but its own script and style run."""

import base64
import hashlib
import re
from importlib.resources import files

PAGE: bytes = files(__package__).joinpath("page.html").read_bytes()


def _hash(tag: bytes) -> str:
    """What CSP calls the inline script or style of the page."""
    found = re.search(rb"<" + tag + rb">(.*?)</" + tag + rb">", PAGE, re.DOTALL)
    digest = hashlib.sha256(found[1] if found else b"").digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


PAGE_HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; script-src {_hash(b'script')}; style-src {_hash(b'style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
