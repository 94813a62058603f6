"""A peer that cannot be measured, and the command to try by hand."""

from guardpass.errors import EngineError, MissingDependency


class PeerError(EngineError):
    """A peer did not start, failed, died, or cannot make its files. `command`: what was run."""

    def __init__(self, message: str, command: str) -> None:
        super().__init__(message)
        self.command = command


class PeerMissing(MissingDependency):
    """A peer is not installed. `command`: what installs it."""

    def __init__(self, message: str, command: str) -> None:
        super().__init__(f"{message}; run `{command}`")
        self.command = command
