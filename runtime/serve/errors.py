"""Errors that only a server raises, in the hierarchy of `guardpass.errors`."""

from ..errors import InputError


class Unauthorized(InputError):
    """No API key, or a wrong one."""

    status = 401
    kind = "unauthorized"


class NotFound(InputError):
    """A path or a guard that does not exist."""

    status = 404
    kind = "not_found"


class WrongMethod(InputError):
    """The path exists, and takes other methods."""

    status = 405
    kind = "wrong_method"


class BodyTooSlow(InputError):
    """The body does not arrive in time."""

    status = 408
    kind = "body_too_slow"


class BodyTooLarge(InputError):
    """A request with too many bytes or texts."""

    status = 413
    kind = "body_too_large"


class WrongMediaType(InputError):
    """The body is not declared as JSON."""

    status = 415
    kind = "wrong_media_type"
