"""`guardpass compare`: what it says of guards is what each of them says by itself."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from sklearn.metrics import accuracy_score, max_error, mean_absolute_error

from guardpass import Guard, GuardError, GuardpassError, InputError, TextTooLong
from guardpass.bench import calibrate, compare
from guardpass.bench.calibration.comparison import ComparedGuard, Comparison, Flip, Pair, Side
from guardpass.bench.calibration.plots import draw_pair
from guardpass.bench.calibration.tables import show_comparison
from guardpass.bench.demo.data import blind_set, held_out_set
from guardpass.bench.demo.run import CHECKPOINT
from guardpass.format.codec import encode
from guardpass.format.integrity import open_guard

from ..support.helpers import files, texts
from ..support.labelled import is_picture, lines_of, write_lines
from ..support.twins import Twins

_SECRET = "a text that must not be told"


@pytest.fixture(scope="module")
def guards(twins: Twins, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The demo guard at two precisions, and one calibrated so that it flags little."""
    folder = tmp_path_factory.mktemp("guards")
    for quant in ("int8", "int4"):
        shutil.copytree(twins.exported(CHECKPOINT, quant), folder / quant)
    shutil.copytree(folder / "int4", folder / "calibrated")
    calibrate(
        folder / "calibrated",
        write_lines(folder / "blind.jsonl", lines_of(blind_set()[::2])),
        at="recall=0.5",
        resamples=0,
    )
    return [folder / name for name in ("int8", "int4", "calibrated")]


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations of both modes; every third has no id, and blank lines count."""
    lines = lines_of(held_out_set()[::4], labelled=False)
    for line in lines[::3]:
        del line["id"]
    path = write_lines(tmp_path_factory.mktemp("texts") / "texts.jsonl", lines)
    path.write_bytes(b"\n" + path.read_bytes())
    return path


@pytest.mark.slow
@pytest.mark.parametrize("argmax", [False, True], ids=["as they judge", "argmax"])
def test_it_says_what_the_guards_say(guards: list[Path], held_out: Path, argmax: bool) -> None:
    told = []
    report = compare(guards, held_out, argmax=argmax, progress=lambda done, total: told.append((done, total)))
    lines = [json.loads(line) if line else None for line in held_out.read_text().split("\n")][:-1]
    numbers = [number for number, line in enumerate(lines, 1) if line]
    pairs = [(line["text"], line.get("response")) for line in lines if line]
    options: dict[str, Any] = {"threshold": {}} if argmax else {}
    verdicts = [list(Guard.load(path).check_many(pairs, **options)) for path in guards]
    safe = np.array([[verdict.safe for verdict in each] for each in verdicts])
    scores = np.array([[verdict.score for verdict in each] for each in verdicts])

    assert report.texts == len(pairs)
    assert told == [(done, 3 * len(pairs)) for done in range(1, 3 * len(pairs) + 1)]
    assert [each.guard for each in report.guards] == list(map(str, guards))
    bounds = (
        {}
        if argmax
        else {mode: {"verdict": spec.thresholds["verdict"].score} for mode, spec in open_guard(guards[2]).modes.items()}
    )
    assert report.guards[2].thresholds == bounds
    expected = [[accuracy_score(one, other) for other in safe] for one in safe]
    assert np.allclose(report.agreement, expected)
    assert [(pair.first, pair.second) for pair in report.pairs] == list(combinations(range(3), 2))
    for pair in report.pairs:
        a, b = pair.first, pair.second
        assert pair.agreement == report.agreement[a][b]
        assert pair.mean_score_change == pytest.approx(mean_absolute_error(scores[a], scores[b]))
        assert pair.worst_score_change == pytest.approx(max_error(scores[a], scores[b]))
        flipped = np.flatnonzero(safe[a] != safe[b])
        assert [flip.line for flip in pair.flips] == [numbers[at] for at in flipped]
        for flip, at in zip(pair.flips, flipped, strict=True):
            assert flip.id == lines[flip.line - 1].get("id")
            for side, verdict in ((flip.first, verdicts[a][at]), (flip.second, verdicts[b][at])):
                found = (side.safe, side.field, side.label, side.score, side.margin)
                assert found == (verdict.safe, verdict.field, verdict.label, verdict.score, verdict.margin)
    assert all(pair.flips for pair in report.pairs if not argmax)
    if argmax:  # calibration is all that tells the last two apart
        assert report.pairs[2].flips == ()
        assert report.pairs[2].worst_score_change == 0


def test_a_guard_agrees_with_itself(two_sided: Path, tmp_path: Path) -> None:
    """Of any texts; ids may be any JSON."""
    ids: list[Any] = [1, "\ud800", None, [{"a": 1.5}], True]
    rows = [{"text": text, "response": text, "id": name} for text, name in zip(texts(5, 3), ids, strict=True)]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = compare([two_sided, two_sided], path)
    assert report.agreement == ((1.0, 1.0), (1.0, 1.0))
    (pair,) = report.pairs
    assert (pair.flips, pair.mean_score_change, pair.worst_score_change) == ((), 0.0, 0.0)


def test_plots(guards: list[Path], held_out: Path, tmp_path: Path) -> None:
    report = compare(guards, held_out, plots=tmp_path / "plots")
    assert files(tmp_path / "plots") == ["scores-A-B.png", "scores-A-C.png"]
    assert all(is_picture(Path(path)) for path in report.plots)
    names = ["A: a$x$b_\\frac", "B: {%}<>"]  # nothing in a name is a formula
    draw_pair(tmp_path / "names.png", names, np.array([[0.1, 0.9], [0.2, 0.3]]), np.array([False, True]))
    assert is_picture(tmp_path / "names.png")
    with pytest.raises(InputError, match=r"cannot write .*x\.png: .*; choose another --plots"):
        draw_pair(tmp_path / "absent" / "x.png", names, np.zeros((2, 1)), np.zeros(1, bool))


def test_bad_input(guards: list[Path], exported: Callable[..., Path], held_out: Path, tmp_path: Path) -> None:
    def written(*lines: Any) -> Path:
        (tmp_path / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return tmp_path / "lines.jsonl"

    prompts = exported("siren: one-sided template")
    cases: list[tuple[list[Path], Path, type[GuardpassError], str]] = [
        (guards[:1], held_out, InputError, "found 1 guards, expected two or more to compare"),
        ([], held_out, InputError, "found 0 guards"),
        (guards, tmp_path / "absent", InputError, "cannot read"),
        (guards, written(), InputError, "holds no lines, expected one JSON object a line with the keys text, response"),
        ([guards[0], tmp_path], held_out, GuardError, "has no guard.json"),
        ([guards[0], prompts], held_out, InputError, r"needs the mode response, and .* judges \['prompt'\]; drop the"),
    ]
    for given, path, error, says in cases:
        with pytest.raises(error, match=says):
            compare(given, path)
    for line, says in [
        ({"text": _SECRET, "unsafe": True}, r"line 2: the line has unknown keys \['unsafe'\]"),
        ({"text": [_SECRET]}, "line 2: text is list, expected str"),
        ({"response": _SECRET}, 'line 2: the line has no "text"'),
        ({"text": _SECRET * 100_000}, "line 2: the text takes"),
    ]:
        with pytest.raises(InputError, match=says) as caught:
            compare(guards, written({"text": "a"}, line))
        assert _SECRET not in str(caught.value)
        assert type(caught.value) is (TextTooLong if "takes" in says else InputError)


@pytest.mark.slow
def test_the_table(guards: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It names lines and ids as a terminal can bear them, tells no text, and shows no more than twenty flips."""
    rows = lines_of(held_out_set(), labelled=False)
    for row in rows:
        row |= {"id": "\x1b[31m[red]한글", "text": f"{row['text']} {_SECRET}"}
    report = compare([guards[1], guards[2]], write_lines(tmp_path / "texts.jsonl", rows))
    show_comparison(report)
    out, err = capsys.readouterr()
    (pair,) = report.pairs
    assert len(pair.flips) > 20
    assert f"A and B: {len(pair.flips)} flips" in out
    assert f"and {len(pair.flips) - 20} more, which --json has" in out
    assert r'"\u001b[31m[red]' in out
    assert "\x1b[31m" not in out
    assert "verdict from" in out
    assert _SECRET not in out + err + json.dumps(encode(report))


@pytest.mark.parametrize("count", [2, 8, 30])
def test_the_tables_fit_80_columns(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    one = Side(False, "verdict", "UNSAFE-S6", 0.91234, -12.3456)
    other = Side(True, "verdict", "controversial", 0.01234, 12.3456)
    flips = (Flip(12345, "an-id-without-spaces-0001", one, other), Flip(1, "한국어 이름", other, one))
    pairs = tuple(Pair(a, b, 0.9321, 0.5, 1.0, flips) for a, b in combinations(range(count), 2))
    compared = tuple(ComparedGuard(f"guard-{place}", {}) for place in range(count))
    show_comparison(Comparison(compared, 12000, "0" * 64, ((0.9321,) * count,) * count, pairs, ()))
    out = capsys.readouterr().out
    assert max(cell_len(line) for line in out.splitlines()) <= 80
    assert out.count("93.21%") == (count * count if count <= 8 else len(pairs))
    assert out.count("-12.346") == out.count("0.9123") == 2 * len(pairs)


@pytest.mark.slow
def test_the_command(guards: list[Path], held_out: Path, tmp_path: Path) -> None:
    def run(*arguments: object, code: int = 0) -> tuple[str, str]:
        command = [sys.executable, "-m", "guardpass", "compare", *map(str, arguments)]
        child = subprocess.run(command, capture_output=True, timeout=120, check=False)
        assert (child.returncode, b"Traceback" in child.stderr) == (code, False), child.stderr
        return child.stdout.decode(), child.stderr.decode()

    out, err = run(*guards[:2], "--texts", held_out, "--json", "--plots", tmp_path / "plots")
    assert not err
    assert json.loads(out) == encode(compare(guards[:2], held_out, plots=tmp_path / "plots"))
    out, _ = run(*guards, "--texts", held_out, "--argmax")
    assert "B and C: 0 flips, score change 0.0000 in the mean, 0.0000 at worst" in out
    for arguments, code, says in [
        (tuple(guards), 2, "--texts"),
        ((*guards, "--texts", held_out, "--plots", held_out), 2, "cannot make the folder"),
        ((*guards, tmp_path, "--texts", held_out), 3, "is a link"),
    ]:
        out, err = run(*arguments, code=code)
        assert not out
        assert says in err
