"""How the suite is run, and the guards that many tests share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from guardpass import Guard

from .support.closing import closing_line
from .support.markers import BY_IMPORT, markers_of
from .support.profiles import PROFILE, load_hypothesis, scale
from .support.twins import PLAIN, VARIANTS, Twins

load_hypothesis()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--without",
        action="append",
        default=[],
        metavar="MARKER",
        choices=sorted({*BY_IMPORT.values()}),
        help="leave out, and do not even import, the modules with a marker that follows from their imports",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    return True if is_test and markers_of(collection_path).intersection(config.getoption("without")) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = {item.obj: None for item in items if isinstance(item, pytest.Function)}
    for test in tests:  # one may be several items
        scale(test)
    for item in items:
        for marker in markers_of(item.path):
            item.add_marker(marker)


def pytest_report_header() -> str:
    return f"profile: {PROFILE} (GUARDPASS_TESTS)"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    options = {"-m": config.option.markexpr, "-k": config.option.keyword, "--without": " ".join(config.option.without)}
    terminalreporter.write_line(closing_line(terminalreporter.stats.get("skipped", []), options))


@pytest.fixture(scope="session")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Twins:
    """Tiny twins and their guards."""
    return Twins(tmp_path_factory)


@pytest.fixture(scope="session")
def checkpoint(twins: Twins) -> Callable[[str], Path]:
    """Directory of a variant."""
    return lambda variant: twins.checkpoint(VARIANTS[variant])


@pytest.fixture(scope="session")
def exported(twins: Twins) -> Callable[..., Path]:
    """Guard directory of a variant at a precision, and of another engine where the options say so."""
    return lambda variant, quant="fp32", **options: twins.guard(VARIANTS[variant], quant, **options)


@pytest.fixture(scope="session")
def two_sided(exported: Callable[..., Path]) -> Path:
    """A guard with both modes."""
    return exported(PLAIN)


@pytest.fixture(scope="session")
def guard(two_sided: Path) -> Guard:
    """The same, opened."""
    return Guard.load(two_sided)


@pytest.fixture(scope="session")
def plain_checkpoint(checkpoint: Callable[[str], Path]) -> Path:
    """The checkpoint of `guard`."""
    return checkpoint(PLAIN)
