"""What `Guard.load` was given, checked."""

from typing import get_args

from .errors import InputError
from .format.manifest import Device, Manifest
from .windows import LongText


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
    for name, value, most in counts:
        if value is not None and (type(value) is not int or not 1 <= value <= most):
            raise InputError(f"{name} is {value!r}, expected a whole number from 1 to {most}")
    if long_text not in get_args(LongText):
        raise InputError(f"long_text is {long_text!r}, expected one of: {', '.join(get_args(LongText))}")
    if device not in (None, *get_args(Device)):
        raise InputError(f"device is {device!r}, expected one of: {', '.join(get_args(Device))}")
