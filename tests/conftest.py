"""Tiny checkpoints with every published quirk, made by the tests, and guards exported from them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guardpass import Guard
from guardpass.bench.twins import Twin, find, tiny, write_twin
from guardpass.export import export_guard

from .support.closing import closing_line
from .support.markers import BY_IMPORT, markers_of
from .support.profiles import PROFILE, load_hypothesis, scale

SHARED = Path(__file__).parents[2] / "shared" / "data"

load_hypothesis()

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def _changed(row: Twin, **config: Any) -> Twin:
    """A twin with other config values; None removes a key."""
    merged = {key: value for key, value in (row.config | config).items() if value is not None}
    return replace(row, config=merged)


_8B, _SIREN, _2B = (tiny(find(f"kanana-safeguard-{name}")) for name in ("8b", "siren-8b", "prompt-2.1b"))

# One checkpoint for every way a published Llama guard differs from the plainest one.
VARIANTS: dict[str, Twin] = {
    "8b: untied, grouped heads, two shards, bf16": _8B,
    "siren: one-sided template": _SIREN,
    "2.1b: tied, heads wider than hidden": _2B,
    "llama3 rope scaling, as transformers 4 writes it": _changed(_8B, rope_scaling=LLAMA3_ROPE),
    "llama3 rope scaling, as transformers 5 writes it": _changed(
        _8B, rope_theta=None, rope_scaling=None, rope_parameters={**LLAMA3_ROPE, "rope_theta": 500000.0}
    ),
    "no head_dim, every head its own keys": _changed(
        replace(_8B, config=_8B.config | {"num_key_value_heads": 4}), num_key_value_heads=4
    ),
    "float16": replace(_changed(_8B, torch_dtype="float16"), dtype="F16"),
    "float32": replace(_changed(_2B, torch_dtype="float32"), dtype="F32"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--without", action="append", default=[], metavar="MARKER", choices=sorted({*BY_IMPORT.values()}),
        help="leave out, and do not even import, the modules with a marker that follows from their imports",
    )  # fmt: skip


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
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Directory of a variant, written once."""
    made: dict[str, Path] = {}

    def make(variant: str) -> Path:
        if variant not in made:
            made[variant] = tmp_path_factory.mktemp("checkpoint") / "twin"
            write_twin(VARIANTS[variant], made[variant])
        return made[variant]

    return make


@pytest.fixture(scope="session")
def exported(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Guard directory of a variant at a precision, exported once."""
    made: dict[tuple[str, str], Path] = {}

    def make(variant: str, quant: str = "fp32") -> Path:
        if (variant, quant) not in made:
            out = tmp_path_factory.mktemp("guard") / "guard"
            export_guard(checkpoint(variant), out, quant=quant, gate=False)
            made[variant, quant] = out
        return made[variant, quant]

    return make


@pytest.fixture(scope="session")
def two_sided(exported: Callable[..., Path]) -> Path:
    """A guard with both modes."""
    return exported("8b: untied, grouped heads, two shards, bf16")


@pytest.fixture(scope="session")
def guard(two_sided: Path) -> Guard:
    """The same, opened."""
    return Guard.load(two_sided)


@pytest.fixture(scope="session")
def plain_checkpoint(checkpoint: Callable[[str], Path]) -> Path:
    """The checkpoint of `guard`."""
    return checkpoint("8b: untied, grouped heads, two shards, bf16")
