"""What of the `bench` extra a command needs; imported when one runs, so that others start fast."""

from importlib.util import find_spec

from guardpass.errors import MissingDependency

_PACKAGES = {"sklearn": "scikit-learn", "matplotlib": "matplotlib"}


def need(doing: str, *modules: str) -> None:
    """Raises MissingDependency where one of these is not installed."""
    missing = [_PACKAGES[name] for name in modules if not find_spec(name)]
    if missing:
        raise MissingDependency(f"{doing} needs {', '.join(missing)}; install guardpass[bench]")
