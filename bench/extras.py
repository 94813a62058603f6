"""What a command checks before it starts: packages of the `bench` extra, and the folder for plots.

Modules of the extra are imported when a command runs, so that the others start fast.
"""

from importlib.util import find_spec
from pathlib import Path

from guardpass.errors import InputError, MissingDependency

_PACKAGES = {"sklearn": "scikit-learn", "matplotlib": "matplotlib"}


def need(purpose: str, *modules: str) -> None:
    """Raises MissingDependency where one of the modules is not installed."""
    missing = [_PACKAGES[name] for name in modules if not find_spec(name)]
    if missing:
        raise MissingDependency(f"{purpose} needs {', '.join(missing)}; install guardpass[bench]")


def make_folder(directory: Path) -> None:
    """Make the folder for plots. Raises InputError where it cannot be made."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {directory}: {error.strerror}; choose another --plots") from None
