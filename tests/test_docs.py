"""The documents: their commands and Python blocks run, their options, links, paths and numbers exist.

CONTRIBUTING.md, "Documents", has the markers that say why a block is not run here.
"""

import ast
import asyncio
import importlib.util
import inspect
import io
import os
import re
import runpy
import shlex
import shutil
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, fields
from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer

from guardpass import Guard, Verdict
from guardpass.bench.demo.data import held_out_set
from guardpass.bench.demo.run import CHECKPOINT
from guardpass.bench.service.process import served
from guardpass.cli import main
from guardpass.export import export_guard, read_family
from guardpass.request import CheckOptions

from .support.labelled import lines_of, write_lines

ROOT = next(parent for parent in Path(__file__).resolve().parents if (parent / "pyproject.toml").exists())
PAGES = [*ROOT.glob("*.md"), ROOT / "kernels" / "README.md", *(ROOT / "docs").rglob("*.md")]
TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}
TESTS = {path.name: path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("test_*.py")}
NEEDS = {"download", "gpu", "long", "compiler", "install", "peers"}
GUARDS = ("GUARD", "GUARD_A", "GUARD_B", "demo-guard")  # placeholders for a guard
# Options that the documents name, of other programs and of `guardpass` without a command.
FOREIGN = {
    "--local-dir",
    "--no-deps",
    "--outdir",
    "--preload",
    "--strict",
    "--help",
    "--version",
    "--install-completion",
    "--show-completion",
}


@dataclass(frozen=True)
class Block:
    """A fenced or indented block: where it stands, its language, its marker, and the output shown after it."""

    page: Path
    line: int
    language: str
    text: str
    marker: str = ""
    output: str = ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """Words of each command; a deeper line, or one after a backslash, continues the one before."""
        lines: list[str] = []
        for line in self.text.splitlines():
            if lines and (line[:1].isspace() or lines[-1].endswith("\\")):
                lines[-1] = lines[-1].removesuffix("\\") + " " + line.strip()
            else:
                lines.append(line)
        return [words for words in (shlex.split(line, comments=True) for line in lines) if words]

    @property
    def is_shell(self) -> bool:
        starts = r"(guardpass|python3?|pip|make|hf|curl|cmake|CMAKE_ARGS=\S*) "
        return self.language in ("sh", "") and bool(re.match(starts, self.text))


def _blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page, in order."""
    lines = TEXT[page].splitlines()
    marker, at, blocks = "", 0, list[Block]()
    while at < len(lines):
        line = lines[at]
        if comment := re.fullmatch(r"\s*<!-- (.*) -->", line):
            marker = comment[1]
        elif fence := re.fullmatch(r"(\s*)```(\w*)", line):
            end = next(i for i in range(at + 1, len(lines)) if lines[i] == f"{fence[1]}```")
            text = "\n".join(part.removeprefix(fence[1]) for part in lines[at + 1 : end])
            blocks.append(Block(page, at + 1, fence[2] or "text", text, marker))
            marker, at = "", end
        elif line.startswith("    ") and (at == 0 or not lines[at - 1].strip()):
            end = next((i for i in range(at, len(lines)) if not lines[i].startswith("    ")), len(lines))
            text = inspect.cleandoc("\n" + "\n".join(lines[at:end]))
            blocks.append(Block(page, at + 1, "", text, marker))
            marker, at = "", end - 1
        elif line.strip():
            marker = ""
        at += 1
    for at, block in enumerate(blocks):
        after = blocks[at + 1] if at + 1 < len(blocks) else None
        shown = after.text if after and block.is_shell and after.language == "text" else ""
        yield Block(block.page, block.line, block.language, block.text, block.marker, shown)


BLOCKS = [block for page in PAGES for block in _blocks(page)]
SHELL = [block for block in BLOCKS if block.is_shell]
PYTHON = [block for block in BLOCKS if block.language == "python"]


def _app() -> typer.Typer:
    app = typer.Typer()
    for part in entry_points(group="guardpass.commands"):
        part.load()(app)
    return app


COMMANDS: dict[str, Any] = typer.main.get_command(_app()).commands  # type: ignore[attr-defined]


def _options(words: list[str]) -> set[str]:
    """The options that a command of ours has. Fails for a command that does not exist."""
    if words[0] == "guardpass":
        assert words[1] in COMMANDS, f"there is no command {words[1]!r}"
        command = COMMANDS[words[1]]
        if words[1] == "bench":
            command = command.commands.get(words[2], command.commands["run"])
        return {name for parameter in command.params for name in parameter.opts} | {"--help"}
    module = words[2]
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"there is no module {module}"
    assert spec.origin is not None
    sources = [spec.origin] if not spec.submodule_search_locations else Path(spec.origin).parent.glob("*.py")
    code = "\n".join(Path(source).read_text("utf-8") for source in sources)
    # Typer makes an option of every parameter.
    parameters = re.findall(r"\b([a-z_]+): ", code) if "typer" in code else []
    return {f"--{name.replace('_', '-')}" for name in parameters} | set(re.findall(r'"(--[\w-]+)"', code))


def _is_ours(words: list[str]) -> bool:
    return words[0] == "guardpass" or (words[:2] == ["python", "-m"] and words[2].startswith("guardpass."))


@pytest.mark.parametrize("block", [*SHELL, *PYTHON], ids=str)
def test_a_marker_is_known(block: Block) -> None:
    kind, _, value = block.marker.partition(": ")
    assert kind in ("", "needs", "usage", "run by", "serves"), f"{block}: there is no marker {block.marker!r}"
    if kind == "needs":
        assert value in NEEDS, f"{block}: needs {value!r}, expected one of {sorted(NEEDS)}"
    if kind == "run by":
        file, _, test = value.partition("::")
        assert f"def {test}(" in TESTS[file], f"{block}: there is no {value}"


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands_and_options_exist(block: Block) -> None:
    """Those of every block, marked or not."""
    for words in block.commands:
        if _is_ours(words):
            # What follows `--serve` goes to `guardpass serve`.
            own = [word.lstrip("[") for before, word in pairwise(words) if before != "--serve"]
            named = {re.split(r"[=|\]]", word)[0] for word in own if word.startswith("--")}
            assert named <= _options(words), f"{block}: {words[:3]} has no {sorted(named - _options(words))}"


def test_options_named_in_prose_exist() -> None:
    known = set(FOREIGN)
    for command in COMMANDS.values():
        for leaf in getattr(command, "commands", {"": command}).values():
            known |= {name for parameter in leaf.params for name in parameter.opts}
    for words in (words for block in SHELL for words in block.commands if _is_ours(words)):
        known |= _options(words)
    for page, text in TEXT.items():
        prose = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
        for code in re.findall(r"`([^`\n]+)`", prose):
            named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", code))
            assert named <= known, f"{page.relative_to(ROOT)} names {sorted(named - known)} in `{code}`"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the documents name: guards, a checkpoint, files of lines."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "bench").symlink_to(CHECKPOINT.parents[1])
    (folder / "CHECKPOINT").symlink_to(CHECKPOINT)
    export_guard(CHECKPOINT, folder / GUARDS[0], gate=False)
    for name in GUARDS[1:]:
        shutil.copytree(folder / GUARDS[0], folder / name)
    examples = held_out_set()[::12]
    write_lines(folder / "labelled.jsonl", lines_of(examples))
    for name in ("requests.jsonl", "texts.jsonl"):
        write_lines(folder / name, lines_of(examples[:10], labelled=False))
    return folder


@pytest.fixture
def work(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder for one block, as the working directory."""
    copy = Path(shutil.copytree(filled, tmp_path / "work", symlinks=True))
    monkeypatch.chdir(copy)
    return copy


def _run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """stdout of a command of ours, in this process. Quantized exports skip the gate: `test_demo.py` runs it."""
    if words[1] in ("export", "twin"):
        out = words[words.index("--out") + 1] if words[1] == "export" else words[3]
        shutil.rmtree(out, ignore_errors=True)
        words = [*words, "--no-gate"] if words[1] == "export" else words
    monkeypatch.setattr(sys, "argv", words)
    stdout = io.StringIO()
    with redirect_stdout(stdout), pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (0, None), f"{words} ended with {end.value.code}"
    return stdout.getvalue()


def _shape(line: str) -> str:
    """A line of output without what depends on the machine: decimal numbers."""
    return re.sub(r"[-+]?\d+\.\d+", "#", line)


@pytest.mark.parametrize("block", [block for block in SHELL if not block.marker], ids=str)
@pytest.mark.usefixtures("work")
def test_shell_blocks_run(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = ""
    for words in block.commands:
        if words[0] == "make":
            targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
            assert words[1] in targets, f"{block}: the Makefile has no target {words[1]!r}"
            continue
        assert words[0] == "guardpass", f"{block}: {words[0]!r} is not run; mark the block as CONTRIBUTING.md says"
        printed += _run(words, monkeypatch)
    shown = [_shape(line) for line in block.output.splitlines() if not line.startswith("gate:")]
    assert not shown or shown == [_shape(line) for line in printed.splitlines()]


def _curl(words: list[str], port: int) -> str:
    """What `curl -s URL [-H HEADER] [-d BODY]` prints, of the server at this port."""
    url = next(word for word in words if word.startswith("http"))
    options = {words[at]: words[at + 1] for at in range(len(words) - 1) if words[at] in ("-H", "-d")}
    header, _, value = options.get("-H", "accept: */*").partition(": ")
    body = options["-d"].encode() if "-d" in options else None
    address = re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{port}", url)
    with urllib.request.urlopen(urllib.request.Request(address, body, {header: value})) as answer:
        assert answer.status == 200
        return str(answer.read().decode())


@pytest.mark.parametrize("block", [block for block in SHELL if block.marker == "serves"], ids=str)
@pytest.mark.usefixtures("work")
def test_serving_blocks_run(block: Block) -> None:
    serve = next(words for words in block.commands if words[:2] == ["guardpass", "serve"])
    with served(serve[2:], "--threads", "1") as server:
        for words in block.commands:
            assert words[0] in ("pip", "guardpass", "curl"), f"{block}: {words[0]!r} is not run"
            if words[0] == "curl":
                assert _curl(words, server.port)


@pytest.mark.parametrize("page", sorted({block.page for block in PYTHON}), ids=lambda page: page.name)
@pytest.mark.usefixtures("work")
def test_python_blocks_run(page: Path) -> None:
    """Those of a page in order, in one namespace; `print(...)  # OUTPUT` prints it."""
    names: dict[str, Any] = {"text": "오늘 저녁 메뉴를 추천해 줘", "reply": "김치찌개요.", "texts": ["a", "b"]}
    for block in (block for block in PYTHON if block.page == page and not block.marker):
        stdout = io.StringIO()
        code = compile(block.text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        with redirect_stdout(stdout):
            waits = eval(code, names)  # noqa: S307
            if inspect.iscoroutine(waits):
                asyncio.run(waits)
        assert stdout.getvalue().splitlines() == re.findall(r"^\s*print\(.*\)  # (.*)$", block.text, re.MULTILINE)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "toml"], ids=str)
def test_toml_blocks_are_families(block: Block, tmp_path: Path) -> None:
    (tmp_path / "my_guard.toml").write_text(block.text, encoding="utf-8")
    assert read_family(tmp_path / "my_guard.toml").name


def _slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_exist(page: Path) -> None:
    text = re.sub(r"\s*\n\s*", " ", TEXT[page])
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{target} is no file"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", TEXT[path], re.MULTILINE)
            assert anchor in map(_slug, headings), f"{target}: there is no such heading"
    for code in re.findall(r"`([^`]+)`", text):
        if re.fullmatch(r"(runtime|export|bench|kernels|tests|docs|src|native_tests)/[\w./*-]*", code):
            base = page.parent if code.startswith(("src/", "native_tests/")) else ROOT
            assert list(base.glob(code.rstrip("/"))), f"there is no {code}"


def test_tests_that_are_named_exist() -> None:
    functions = {name for source in TESTS.values() for name in re.findall(r"def (test_\w+)\(", source)}
    for page, text in TEXT.items():
        for name, end in re.findall(r"\b(test_\w+)(\.py|\.\.\.|\*\.py|)", text):
            if end.endswith(".py"):
                assert any(re.fullmatch(f"{name}{end}".replace("*", r"\w*"), file) for file in TESTS), f"{page}: {name}"
            else:
                assert name in functions or (end and any(map(re.compile(name).match, functions))), f"{page}: {name}"


def test_extras_that_are_named_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for page, text in TEXT.items():
        for names in re.findall(r"(?:guardpass|'\.|`\.)\[([a-z,]+)\]", text):
            assert set(names.split(",")) <= extras.keys(), f"{page.name} names the extras {names}"


def test_the_api_page_is_complete() -> None:
    rows = re.findall(r"^\| (`.*?) \|", TEXT[ROOT / "docs" / "python.md"], re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`(?:await )?(\w+)", row)}
    load = inspect.signature(Guard.load).parameters.keys() - {"path"}
    calls = {name for name in vars(Guard) if not name.startswith("_")} - {"load", "after_fork"}  # forks.py calls it
    assert load | calls | CheckOptions.__annotations__.keys() | {field.name for field in fields(Verdict)} <= documented


def test_published_numbers_agree() -> None:
    """The plot is drawn from the table of docs/benchmarks.md, and the README's rows are that table's."""
    page = TEXT[ROOT / "docs" / "benchmarks.md"]
    plot = runpy.run_path(str(ROOT / "docs" / "images" / "latency.py"))
    assert plot["draw"](page) == (ROOT / "docs" / "images" / "latency.svg").read_text("utf-8"), "run latency.py again"
    _, times = plot["read_table"](page)
    table = TEXT[ROOT / "README.md"].partition("## Benchmark")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\w[^|]*?) \| ([\d. |]+) \|$", table, re.MULTILINE)
    assert len(rows) >= 3
    for name, numbers in rows:
        words = set(re.findall(r"[\w.]+", name))
        matches = [row for full, row in times.items() if words <= set(re.findall(r"[\w.]+", full))]
        assert [float(number) for number in numbers.split(" | ")] in matches, name


def test_pages_are_small() -> None:
    """The README is two screens and fits 120 columns; pictures are small."""
    lines = TEXT[ROOT / "README.md"].splitlines()
    assert len(lines) <= 160
    assert all(len(line) <= 120 for line in lines if not line.startswith(("|", "!")))
    assert all(os.path.getsize(path) < 200_000 for path in (ROOT / "docs" / "images").iterdir())
