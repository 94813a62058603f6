"""Markers that follow from what a test module imports, itself or through other modules of tests/."""

import ast
import functools
from pathlib import Path

TESTS = Path(__file__).parents[1]
# By the beginning of an imported name; the markers are described in pyproject.toml.
BY_IMPORT = {
    "torch": "torch",
    "transformers": "torch",
    "safetensors.torch": "torch",
    "llama_cpp": "llamacpp",
    "guardpass.engines.llamacpp.library": "llamacpp",
    "guardpass.engines.llamacpp.engine": "llamacpp",
    "guardpass.export.to_gguf.write": "llamacpp",
    "guardpass.serve": "serve",
    "guardpass.bench.service": "serve",
    "starlette": "serve",
}


@functools.cache
def markers_of(path: Path) -> frozenset[str]:
    """The markers of a module under tests/."""
    names, seen, waiting = set[str](), set[Path](), [path]
    while waiting:
        if (path := waiting.pop()) in seen or not path.is_file():
            continue
        seen.add(path)
        for name in _imported(path):
            names.add(name)
            if name.startswith("tests."):
                waiting.append(TESTS.joinpath(*name.split(".")[1:]).with_suffix(".py"))
    return frozenset(
        marker for start, marker in BY_IMPORT.items() if any(f"{name}.".startswith(f"{start}.") for name in names)
    )


def _imported(path: Path) -> set[str]:
    """Full names, wherever in the file they are imported; `from a import b` may mean the module a.b or its parent."""
    package = ["tests", *path.relative_to(TESTS).parent.parts]
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found
