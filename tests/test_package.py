"""The package: what the wheel holds, who imports whom, and how little the runtime needs."""

import ast
import graphlib
import importlib.metadata
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from guardpass import __version__

ROOT = Path(__file__).parents[1]
PACKAGES = {"runtime": "", "export": "export/", "bench": "bench/"}  # folder: where it goes in guardpass/
# Arrows of DESIGN.md: a part may import the parts named here, and itself.
ALLOWED = {"runtime": set[str](), "export": {"runtime"}, "bench": {"runtime", "export"}}
# The same of bench's folders; commands, __init__ and the files at its top are not held.
ALLOWED_IN_BENCH = {
    "calibration": {"extras"},
    "cuda": {"reference", "speed.measure", "twins"},
    "demo": {"twins"},
    "peers": {"reference"},
    "quantization": {"demo", "peers", "speed.measure", "speed.report"},
    "service": set[str](),
    "speed.measure": {"peers", "speed.report", "twins"},
    "speed.plots": {"extras", "speed.report"},
    "speed.report": set[str](),
    "twins": set[str](),
}


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    """Built from a clean copy, as leftovers in build/ would be packed too."""
    source = tmp_path / "source"
    leftovers = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for part in (*PACKAGES, "kernels"):  # the last has a distribution of its own
        shutil.copytree(ROOT / part, source / part, ignore=leftovers)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {
        f"guardpass/{package}{path.relative_to(source / part)}"
        for part, package in PACKAGES.items()
        for path in (source / part).rglob("*")
        if path.is_file()
    }
    assert names == expected


def _imports(path: Path, package: str) -> set[str]:
    """Full names of what a file imports; `from a import b` may mean the module a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("part", PACKAGES)
def test_arrows_point_one_way(part: str) -> None:
    for path in (ROOT / part).rglob("*.py"):
        inside = path.relative_to(ROOT / part).parent.parts
        package = ".".join(["guardpass", *([] if part == "runtime" else [part]), *inside])
        for name in _imports(path, package):
            words = name.split(".")
            if words[0] == "guardpass":
                target = words[1] if len(words) > 1 and words[1] in PACKAGES else "runtime"
                assert target in ALLOWED[part] | {part}, f"{path.name} imports {name}"


@pytest.mark.parametrize("folder", ALLOWED_IN_BENCH)
def test_arrows_point_one_way_in_bench(folder: str) -> None:
    here = ROOT / "bench" / Path(*folder.split("."))
    for path in here.rglob("*.py"):
        package = ".".join(["guardpass", "bench", *path.relative_to(ROOT / "bench").parent.parts])
        for name in _imports(path, package):
            if name.startswith("guardpass.bench."):
                words = name.split(".")[2:]
                target = ".".join(words[: 2 if words[0] == "speed" else 1])
                assert target in ALLOWED_IN_BENCH[folder] | {folder}, f"{path.name} imports {name}"


# Inside export/: a folder, or a module at its top, and what it may import. `runtime` is left out: all may.
EXPORT_ARROWS: dict[str, set[str]] = {
    "checkpoint": set(),
    "families": set(),
    "prompt": {"checkpoint", "families"},
    "guard_dir": {"checkpoint", "prompt"},
    "decoder": {"checkpoint", "guard_dir"},
    "to_onnx": {"guard_dir", "decoder"},
    "to_native": {"checkpoint", "guard_dir", "decoder"},
    "to_gguf": {"checkpoint", "prompt", "guard_dir", "decoder"},
    "via_optimum": {"checkpoint", "guard_dir", "to_onnx"},
    "gate": {"checkpoint", "guard_dir", "to_onnx"},
    "choices": set(),
    "targets": {"checkpoint", "choices", "guard_dir", "to_onnx", "to_native", "to_gguf"},
    "export": {"checkpoint", "choices", "families", "prompt", "guard_dir", "to_gguf", "via_optimum", "gate", "targets"},
    "adopt": {"checkpoint", "families", "prompt", "guard_dir", "to_gguf", "export"},
    "commands": {"choices", "families", "guard_dir", "__init__"},
    "__init__": {"families", "export", "adopt"},
}


def test_arrows_inside_export_point_one_way() -> None:
    """And none of them closes a circle: every part comes after what it may import."""
    root, actual = ROOT / "export", dict[str, set[str]]()
    for path in root.rglob("*.py"):
        inside = path.relative_to(root).parts
        part = inside[0].removesuffix(".py")
        names = _imports(path, ".".join(["guardpass", "export", *inside[:-1]]))
        parts = {name.removeprefix("guardpass.export.").split(".")[0] for name in names if "guardpass.export." in name}
        parts = {name if name in EXPORT_ARROWS else "__init__" for name in parts}
        assert parts - {part} <= EXPORT_ARROWS[part], f"{path.relative_to(root)} imports {parts - EXPORT_ARROWS[part]}"
        actual.setdefault(part, set()).update(parts - {part})
    assert actual == EXPORT_ARROWS, "the table allows what nothing imports"
    graphlib.TopologicalSorter(EXPORT_ARROWS).prepare()  # raises CycleError


# Inside runtime/: a folder, or a module at its top, and what it imports. "guardpass" is __init__.py, the public names.
RUNTIME_ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "forks": set(),
    "normalize": set(),
    "stop": {"errors"},
    "jsonl": {"errors"},
    "format": {"errors"},
    "tokenizer": {"errors", "format"},
    "plan": {"format", "tokenizer"},
    "verdict": {"format"},
    "on_error": {"errors", "format", "verdict"},
    "openai_scores": {"format"},
    "windows": {"errors", "format", "tokenizer", "plan"},
    "decide": {"errors", "format", "openai_scores", "verdict"},
    "request": {"errors", "format", "decide", "on_error"},
    "judge": {"errors", "format", "tokenizer", "plan", "windows", "decide", "verdict", "request", "normalize"},
    "run": {"errors", "stop", "plan", "decide", "verdict", "request", "judge"},
    "engines": {"errors", "forks", "stop", "format", "plan"},
    "scheduling": {"errors", "forks", "stop"},
    "stream": {"errors", "forks", "tokenizer", "engines", "verdict", "request", "judge", "run"},
    "opening": {"errors", "format", "engines", "windows"},
    "describe": {"format", "tokenizer", "windows", "judge"},
    "answer_text": {"errors", "format", "verdict"},
    "guard": {
        "errors",
        "forks",
        "stop",
        "format",
        "tokenizer",
        "windows",
        "verdict",
        "on_error",
        "request",
        "judge",
        "run",
        "engines",
        "scheduling",
        "stream",
        "opening",
        "describe",
        "answer_text",
    },
    "panel_policy": {"format", "verdict"},
    "panel": {"errors", "forks", "format", "verdict", "on_error", "request", "scheduling", "guard", "panel_policy"},
    "guardpass": {
        "errors",
        "format",
        "windows",
        "verdict",
        "on_error",
        "request",
        "scheduling",
        "stream",
        "guard",
        "panel_policy",
        "panel",
    },
    "serve": {
        "errors",
        "format",
        "windows",
        "decide",
        "openai_scores",
        "verdict",
        "on_error",
        "request",
        "engines",
        "scheduling",
        "describe",
        "answer_text",
        "guard",
        "panel_policy",
        "panel",
        "guardpass",
    },
    "commands": {"errors", "jsonl", "format", "tokenizer", "windows", "verdict", "request", "describe", "guard"},
    "cli": {"errors", "guardpass"},
    "__main__": {"cli"},
}


def test_arrows_inside_the_runtime_point_one_way() -> None:
    """And none of them closes a circle: neither between parts, nor between the modules of a folder."""
    root, actual = ROOT / "runtime", dict[str, set[str]]()
    modules = {
        ".".join(("guardpass", *path.relative_to(root).with_suffix("").parts)): path for path in root.rglob("*.py")
    }
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        names = _imports(path, ".".join(("guardpass", *path.relative_to(root).parent.parts)))
        names = {
            name if name in modules else name.rpartition(".")[0] for name in names if name.startswith("guardpass.")
        }
        graph[module] = names - {module}
        part, *parts = (".".join(name.split(".")[:2]).removeprefix("guardpass.") for name in (module, *names))
        unknown = {*parts} - {part} - RUNTIME_ARROWS.get(part, set())
        assert not unknown, f"{path.relative_to(root)} imports {sorted(unknown)}"
        actual.setdefault(part, set()).update({*parts} - {part})
    assert actual == RUNTIME_ARROWS, "the table allows what nothing imports"
    graphlib.TopologicalSorter(RUNTIME_ARROWS).prepare()  # raises CycleError
    graphlib.TopologicalSorter(graph).prepare()


def test_only_the_server_knows_the_server() -> None:
    for path in (ROOT / "runtime").rglob("*.py"):
        if path.parent.name != "serve":
            package = ".".join(["guardpass", *path.relative_to(ROOT / "runtime").parent.parts])
            names = _imports(path, package)
            assert not {n for n in names if n.startswith(("guardpass.serve", "starlette", "uvicorn", "prometheus"))}


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
    others = {"onnxruntime", "guardpass_kernels", "typer", "rich", "onnx", "torch", "transformers"}
    assert not _modules("import guardpass") & others


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


def test_the_version_has_one_place() -> None:
    project, kernels = (tomllib.loads((ROOT / part / "pyproject.toml").read_text()) for part in ("", "kernels"))
    assert "version" not in project["project"]
    assert importlib.metadata.version("guardpass") == __version__ == kernels["project"]["version"]
