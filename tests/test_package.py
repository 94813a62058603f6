"""The package: what the wheel holds, who imports whom, and how little the runtime needs."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Arrows of DESIGN.md: a part may import the parts named here, and itself.
ALLOWED = {"runtime": set[str](), "export": {"runtime"}, "bench": {"runtime", "export"}}


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"guardpass", "guardpass-0.1.0.dist-info"}
    shipped = {name for name in names if name.endswith(".py")}
    for part, package in (("runtime", ""), ("export", "export/"), ("bench", "bench/")):
        for path in (ROOT / part).rglob("*.py"):
            assert f"guardpass/{package}{path.relative_to(ROOT / part)}" in shipped
    assert "guardpass/py.typed" in names
    assert "guardpass/bench/demo/checkpoint/model.safetensors" in names


@pytest.mark.parametrize("part", ALLOWED)
def test_arrows_point_one_way(part: str) -> None:
    for path in (ROOT / part).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                if name == "guardpass" or name.startswith("guardpass."):
                    words = name.split(".")
                    target = words[1] if len(words) > 1 and words[1] in ALLOWED else "runtime"
                    assert target in ALLOWED[part] | {part}, f"{path.name} imports {name}"


_LIST = "import sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"


def _modules(code: str, *arguments: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{_LIST}", *arguments], check=True, capture_output=True, text=True
    )
    return set(done.stdout.split())


def test_the_runtime_needs_numpy_onnxruntime_and_tokenizers_only(two_sided: Path) -> None:
    check = "import sys\nfrom guardpass import Guard\nGuard.load(sys.argv[1]).check('text', 'reply')"
    needed = _modules("import numpy, onnxruntime, tokenizers")
    extra = _modules(check, str(two_sided)) - needed - set(sys.stdlib_module_names) - {"guardpass"}
    assert extra == set()


def test_importing_guardpass_does_not_import_the_engine() -> None:
    """What keeps `import guardpass` fast: ONNX Runtime comes with the first guard."""
    assert not _modules("import guardpass") & {"onnxruntime", "typer", "rich", "onnx", "torch", "transformers"}


def test_a_missing_engine_is_an_error_that_names_the_extra(two_sided: Path) -> None:
    code = (
        "import sys\nsys.modules['onnxruntime'] = None\nfrom guardpass import Guard, MissingDependency\n"
        "try:\n    Guard.load(sys.argv[1])\n"
        "except MissingDependency as error:\n    assert 'guardpass[cpu]' in str(error)\n"
        "else:\n    raise SystemExit('no error')"
    )
    subprocess.run([sys.executable, "-c", code, str(two_sided)], check=True)


@pytest.mark.parametrize("name", ["runtime", "export", "bench"])
def test_folders_are_not_importable_by_their_own_names(name: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=tmp_path, capture_output=True, text=True)
    assert "ModuleNotFoundError" in done.stderr
