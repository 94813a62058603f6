"""What only a server can find wrong, in the hierarchy of `guardpass.errors`."""

from ..errors import InputError


class Unauthorized(InputError):
    """No API key, or a wrong one."""

    status = 401
    kind = "unauthorized"


class NotFound(InputError):
    """There is nothing of this name: a path, or a guard."""

    status = 404
    kind = "not_found"


class WrongMethod(InputError):
    """The path is there, and takes other methods."""

    status = 405
    kind = "wrong_method"


class BodyTooSlow(InputError):
    """The body did not come in time."""

    status = 408
    kind = "body_too_slow"


class BodyTooLarge(InputError):
    """More bytes, or more texts, than one request may have."""

    status = 413
    kind = "body_too_large"


class WrongMediaType(InputError):
    """The body is not declared as JSON."""

    status = 415
    kind = "wrong_media_type"
