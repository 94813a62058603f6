"""What the suite is run by: markers that follow from imports, scaled examples, and the line on what did not run."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .support import profiles
from .support.closing import closing_line
from .support.markers import BY_IMPORT, TESTS, markers_of

_ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_modules_without_a_marker_import_none_of_it(tmp_path: Path) -> None:
    """Python's own list of what it has imported, once pytest has collected the rest."""
    plugin = (
        "import sys\ndef pytest_collection_finish():\n    print('HERE', sorted({n.split('.')[0] for n in sys.modules}))"
    )
    (tmp_path / "loaded.py").write_text(plugin)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    options = ["--collect-only", "-q", "-p", "loaded", *(f"--without={marker}" for marker in {*BY_IMPORT.values()})]
    done = subprocess.run([sys.executable, "-c", code, *options], cwd=_ROOT, capture_output=True, text=True)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("HERE"))
    assert "'guardpass'" in line
    for name in ("torch", "transformers", "llama_cpp", "starlette"):
        assert f"'{name}'" not in line


def test_a_marker_follows_through_other_test_modules() -> None:
    assert "torch" in markers_of(TESTS / "export" / "test_cuda_export.py")  # by half.py
    assert markers_of(TESTS / "test_support.py") == frozenset()


@pytest.mark.parametrize(("profile", "expected"), [("quick", 40), ("ci", 120), ("nightly", 400)])
def test_examples_are_scaled(profile: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "PROFILE", profile)
    tried: list[int] = []

    @settings(max_examples=400)
    @given(st.integers())
    def test(number: int) -> None:
        tried.append(number)

    profiles.scale(test)
    test()
    assert len(tried) == profiles.scaled(400) == expected
    assert profiles.scaled(7) == 7


def test_the_closing_line_counts_reasons() -> None:
    here = [SimpleNamespace(longrepr=("file.py", 3, f"Skipped: {reason}")) for reason in ("no X", "no Y", "no Y")]
    assert (
        closing_line(here, {"-m": "not slow", "-k": ""})
        == "Not run: 2 x no Y; 1 x no X; what -m 'not slow' leaves out."
    )
    assert closing_line([], {"-m": ""}) == "Not run: nothing, every test has run."
