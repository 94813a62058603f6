"""What `guardpass bench` writes down: report files, and the environment in every row."""

import errno
import json
import os
import platform
import random
import subprocess
import types
import typing
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardpass import InputError
from guardpass.bench.speed.measure import environment as environments
from guardpass.bench.speed.measure.environment import commit, environment
from guardpass.bench.speed.report.files import check_file, read_report, rows, to_json, to_lines, write_report
from guardpass.bench.speed.report.schema import SCHEMA, Report

from ..support.helpers import files
from ..support.speed_reports import report


def _of(kind: Any) -> st.SearchStrategy[Any]:
    """Anything of an annotated type that JSON has numbers for."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind):
        return st.builds(kind, **{name: _of(each) for name, each in typing.get_type_hints(kind).items()})  # type: ignore[arg-type]
    if origin is tuple:
        return st.lists(_of(args[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(st.text(max_size=5), _of(args[1]), max_size=2)
    if origin is types.UnionType:
        return st.none() | _of(args[0])
    if origin is typing.Literal:
        return st.sampled_from(args)
    plain: dict[Any, st.SearchStrategy[Any]] = {
        int: st.integers(),
        bool: st.booleans(),
        str: st.text(max_size=8),
        float: st.floats(allow_nan=False, allow_infinity=False),
    }
    return plain[kind]


_reports = _of(Report).map(lambda made: replace(made, schema=SCHEMA))


@settings(max_examples=25)
@given(_reports)
def test_what_is_written_is_read_again(tmp_path: Path, made: Report) -> None:
    for name in ("report.json", "report.jsonl"):
        path = tmp_path / name
        write_report(made, path)
        if name == "report.json" or any(rows(made)):
            assert read_report(path) == made
        else:
            with pytest.raises(InputError, match=r"report\.jsonl has no rows"):
                read_report(path)
    assert files(tmp_path) == ["report.json", "report.jsonl"]


def test_a_row_is_a_line() -> None:
    made = report((16, 64), turns=5)
    count = len(list(rows(made)))
    assert sum(line.startswith("  {") for line in to_json(made).splitlines()) == count
    lines = [json.loads(line) for line in to_lines(made).splitlines()]
    assert len(lines) == count
    for line in lines:  # each stands alone
        assert line["schema"] == SCHEMA
        assert line["command"] == made.command
        assert line["row"]["environment"]["cpu"] == "Intel(R) Xeon(R) Processor"
    assert {line["kind"] for line in lines} == set(json.loads(to_json(made))) - {"schema", "command"}


def test_results_without_peaks_beside_are_read(tmp_path: Path) -> None:
    """As older guardpass wrote them."""
    body = json.loads(to_json(report((16,), turns=5)))
    for row in body["latency"]:
        for name in ("peaks", "share", "share_interval"):
            del row[name]
    path = tmp_path / "older.json"
    path.write_text(json.dumps(body))
    assert {(row.peaks, row.share, row.share_interval) for row in read_report(path).latency} == {(None, None, None)}


def test_lines_of_several_runs_are_one_report(tmp_path: Path) -> None:
    first, second = report((16,), turns=5), replace(report((64,), turns=5), command="another")
    path = tmp_path / "both.jsonl"
    path.write_text(to_lines(first) + "\n" + to_lines(second))
    both = read_report(path)
    assert both.latency == first.latency + second.latency
    assert both.command == f"{first.command}; another"


def test_whole_numbers_that_other_tools_wrote(tmp_path: Path) -> None:
    """JSON.stringify and jq print 2.0 as 2."""
    made, path = report((16,), turns=5), tmp_path / "rewritten.json"
    shorten = {"parse_float": lambda text: int(float(text)) if float(text).is_integer() else float(text)}
    shortened = json.dumps(json.loads(to_json(made), **shorten))
    assert '"texts": 628, "agreement": 1, ' in shortened
    path.write_text(shortened)
    assert read_report(path) == made
    assert isinstance(next(row for row in read_report(path).fidelity if row.agreement == 1).agreement, float)


def _changed(change: Callable[[dict[str, Any]], Any]) -> str:
    body = json.loads(to_json(report((16,), turns=5)))
    change(body)
    return json.dumps(body)


_BAD: dict[str, tuple[str, str]] = {
    "nothing": ("", "is not JSON, or was cut"),
    "a list": ("[]", "has schema None, this guardpass reads 1"),
    "nested": ("[" * 100_000, "is not JSON, or was cut"),
    "another schema": (_changed(lambda body: body.update(schema=2)), "has schema 2, this guardpass reads 1"),
    "schema true": (_changed(lambda body: body.update(schema=True)), "has schema True"),
    "no command": (_changed(lambda body: body.pop("command")), r"missing keys \['command'\]"),
    "an unknown key": (_changed(lambda body: body["cost"][0].update(gpu=1)), r"cost\[0\]: .*unknown keys \['gpu'\]"),
    "a wrong type": (
        _changed(lambda body: body["latency"][1]["ms"].update(n="5")),
        r"latency\[1\]\.ms\.n: expected int, found str",
    ),
    "wrong weights": (
        _changed(lambda body: body["latency"][0]["contender"].update(weights="good")),
        r"contender\.weights: expected one of .*'twin'.*, found 'good'",
    ),
    "true for a number": (_changed(lambda body: body["offline"][0].update(rate=True)), "expected float, found bool"),
    "a number too long": (_changed(lambda body: body["offline"][0].update(rate=10**400)), "expected float, found int"),
    "NaN": (_changed(lambda body: body["offline"][0].update(rate=float("nan"))), "NaN is no finite number"),
    "infinite": (to_json(report((16,), turns=5)).replace(": 21.5,", ": 1e999,"), "1e999 is no finite number"),
}


@pytest.mark.parametrize("case", _BAD)
def test_bad_files(tmp_path: Path, case: str) -> None:
    text, says = _BAD[case]
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(InputError, match=says) as caught:
        read_report(path)
    assert str(path) in str(caught.value)
    assert "run `guardpass bench --json` again" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"schema": 1, "kind": "speed", "command": "", "row": {}}', "is no report: .*unknown keys .'speed'"),
        ('{"schema": 1, "kind": "latency", "command": ""}', r"latency\[0\]: expected dict, found NoneType"),
        ('{"schema": 1, "kind": ["latency"], "command": "", "row": {}}', "line 1 is no report: .*kind: expected str"),
        ('{"schema": 3}', "line 1 has schema 3"),
        ('{"schema": 1, "kind": "lat', "line 1 is not JSON, or was cut"),
    ],
)
def test_bad_lines(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "report.jsonl"
    path.write_text(line)
    with pytest.raises(InputError, match=says):
        read_report(path)


def test_cut_files(tmp_path: Path) -> None:
    """Wherever it ends, JSON is whole or refused."""
    text, path = to_json(report((16,), turns=3)), tmp_path / "report.json"
    for end in random.Random(0).sample(range(len(text.rstrip())), 40):
        path.write_text(text[:end])
        with pytest.raises(InputError):
            read_report(path)


def test_files_that_cannot_be_read_or_made(tmp_path: Path) -> None:
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe{}")
    for path, says in ((tmp_path / "absent.json", "No such file"), (tmp_path, "cannot read"), (binary, "not UTF-8")):
        with pytest.raises(InputError, match=says):
            read_report(path)
    for path, says in ((tmp_path, "it is a folder"), (tmp_path / "absent" / "report.json", "parent is no folder")):
        with pytest.raises(InputError, match=f"{says}; choose another --json"):
            check_file(path)
        with pytest.raises(InputError, match="choose another --json"):
            write_report(report((16,), turns=3), path)
    check_file(tmp_path / "new.json")
    assert files(tmp_path) == ["binary.json"]


@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    old, path = report((16,), turns=3), tmp_path / "report.json"
    write_report(old, path)
    monkeypatch.setattr(os, name, full)
    with pytest.raises(InputError, match=r"cannot write .*report\.json: No space left"):
        write_report(report((64,), turns=3), path)
    assert read_report(path) == old
    assert files(tmp_path) == ["report.json"]


def test_the_environment_is_this_machines() -> None:
    found = environment({"numpy": "2"})
    assert abs((datetime.fromisoformat(found.date) - datetime.now().astimezone()).total_seconds()) < 60
    assert found.date.endswith("+00:00")
    assert found.cores == os.cpu_count()
    assert found.python == platform.python_version()
    assert found.versions == {"numpy": "2"}
    assert found.cpu
    if hasattr(os, "sched_getaffinity"):
        assert set(found.affinity) == os.sched_getaffinity(0)


_X86 = """processor\t: 0
model name\t: Some CPU @ 2.30GHz
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni amx_int8 ht

processor\t: 1
model name\t: Another
flags\t\t: avx_vnni
"""
_ARM = """processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd aes asimddp i8mm bf16
CPU implementer\t: 0x41
CPU part\t: 0xd0c
"""


@pytest.mark.parametrize(
    ("text", "cpu", "flags"),
    [
        (_X86, "Some CPU @ 2.30GHz", ("avx2", "avx512f", "avx512_vnni", "amx_int8")),
        (_ARM, f"{platform.machine()} implementer 0x41 part 0xd0c", ("asimddp", "i8mm", "bf16")),
        ("processor\t: 0\n\n", None, ()),
        ("no fields at all", None, ()),
        (None, None, ()),
    ],
)
def test_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, cpu: str | None, flags: tuple[str, ...]
) -> None:
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(environments, "_CPUINFO", path)
    found = environment({})
    assert found.flags == flags
    assert found.cpu == cpu if cpu else found.cpu in (platform.processor(), platform.machine())


def test_commits(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        named = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.run([*named, *words], check=True, capture_output=True, text=True).stdout.strip()

    file = tmp_path / "code.py"
    file.write_text("")
    assert commit(file) == ""
    git("init", "-q")
    assert commit(file) == ""  # a package installed below someone else's checkout
    git("add", "code.py")
    git("commit", "-qm", "first")
    git("tag", "v1")
    head = git("rev-parse", "HEAD")
    assert commit(file) == head[:12]
    (tmp_path / "notes").write_text("")
    assert commit(file) == head[:12]
    file.write_text("changed")
    assert commit(file) == f"{head[:12]}+"
