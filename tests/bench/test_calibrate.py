"""`guardpass calibrate`: a guard judges by what was chosen for it; guard.json is replaced whole or stays as it was."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from guardpass import Guard, GuardError, GuardpassError, InputError, TextTooLong
from guardpass.bench import Calibration, calibrate, reset_thresholds
from guardpass.bench.calibration.calibrate import ModeReport
from guardpass.bench.calibration.labelled_lines import Lines, read_labelled
from guardpass.bench.calibration.metrics import Estimate, Flagging, Metrics
from guardpass.bench.calibration.scoring import Plan, score
from guardpass.bench.calibration.tables import show_calibration
from guardpass.bench.demo.data import blind_set
from guardpass.bench.demo.run import CHECKPOINT
from guardpass.format.codec import encode
from guardpass.format.integrity import open_guard
from guardpass.format.manifest import Flip, Gate, Manifest, Threshold
from guardpass.format.manifest_io import dumps
from guardpass.plan import Pass

from ..support.engines import put_engine
from ..support.helpers import files, planner, texts
from ..support.labelled import is_picture, lines_of, write_lines
from ..support.published import CASES
from ..support.twins import Twins

_SECRET = "a text that must not be told"


@pytest.fixture(scope="module")
def demo(twins: Twins) -> Path:
    """The demo guard."""
    return twins.exported(CHECKPOINT, "int8", gate=True)


@pytest.fixture
def guard(demo: Path, tmp_path: Path) -> Path:
    """A copy of it, to be calibrated, alone in its folder."""
    return Path(shutil.copytree(demo, tmp_path / "guards" / "guard"))


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 labelled conversations of both modes."""
    return write_lines(tmp_path_factory.mktemp("labelled") / "blind.jsonl", lines_of(blind_set()[::2]))


@pytest.fixture(scope="module")
def twin(twins: Twins) -> Callable[[str], Path]:
    """A tiny guard of a published shape, by its twin's name."""

    def make(name: str) -> Path:
        if name != "two deciding fields":
            return twins.guard(name)
        # Of which one stands behind the other in a walk.
        row = next(case.row for case in CASES if case.twin == "wildguard-ko-3b")
        row = replace(row, modes={mode: replace(each, decides=()) for mode, each in row.modes.items()})
        return twins.guard("wildguard-ko-3b", family=row)

    return make


_TARGETS: dict[str, Callable[[Any, Any, Any], bool]] = {
    "precision=0.97": lambda truth, flagged, _: precision_score(truth, flagged) >= 0.97,
    "recall=0.9": lambda truth, flagged, _: recall_score(truth, flagged) >= 0.9,
    "fpr=0.05": lambda truth, flagged, _: recall_score(~truth, ~flagged) >= 0.95,
    "f1": lambda truth, flagged, argmax: f1_score(truth, flagged) >= f1_score(truth, argmax),
}


@pytest.mark.parametrize("at", _TARGETS)
def test_a_calibrated_guard_judges_by_its_threshold(guard: Path, blind: Path, tmp_path: Path, at: str) -> None:
    before = open_guard(guard)
    report = calibrate(guard, blind, at=at, resamples=20)
    after = open_guard(guard)
    assert files(tmp_path / "guards") == ["guard"]
    assert files(guard) == sorted([*after.files, "guard.json"])
    bare = {name: replace(mode, thresholds={}) for name, mode in after.modes.items()}
    assert replace(after, modes=bare) == before

    opened = Guard.load(guard)
    lines = [json.loads(line) for line in blind.read_bytes().splitlines()]
    for each in report.modes:
        (found,) = after.modes[each.mode].thresholds.values()
        assert after.modes[each.mode].thresholds == {"verdict": each.threshold}
        mine = [line for line in lines if ("response" in line) == (each.mode == "response")]
        assert (found.at, found.texts) == (at, len(mine))
        assert found.sha256 == hashlib.sha256(blind.read_bytes()).hexdigest()

        pairs = [(line["text"], line.get("response")) for line in mine]
        usual = list(opened.check_many(pairs))
        by_threshold = list(opened.check_many(pairs, threshold=found.score))
        by_argmax = list(opened.check_many(pairs, threshold={}))
        for one, other, bare_one in zip(usual, by_threshold, by_argmax, strict=True):
            assert (one.safe, one.label, one.fields) == (other.safe, other.label, other.fields)
            assert one.safe == (one.score < found.score)
            assert bare_one.safe == (bare_one.margin > 0)
        truth = np.array([line["unsafe"] for line in mine])
        flagged, argmax = (np.array([not v.safe for v in verdicts]) for verdicts in (usual, by_argmax))
        assert _TARGETS[at](truth, flagged, argmax)

        scores = np.array([verdict.score for verdict in usual])
        for metrics, seen in ((each.overall.threshold, flagged), (each.overall.argmax, argmax)):
            assert metrics.f1.value == pytest.approx(f1_score(truth, seen))
            assert metrics.precision.value == pytest.approx(precision_score(truth, seen))
            assert metrics.recall.value == pytest.approx(recall_score(truth, seen))
            assert metrics.fpr.value == pytest.approx(1 - recall_score(~truth, ~seen))
        assert each.overall.au_prc.value == pytest.approx(average_precision_score(truth, scores))
        for category, measured in each.categories.items():
            chosen = ~truth | [line.get("category") == category for line in mine]
            assert (measured.texts, measured.unsafe) == (chosen.sum(), (chosen & truth).sum())
            assert measured.threshold.f1.value == pytest.approx(f1_score(truth[chosen], flagged[chosen]))
            assert measured.au_prc.value == pytest.approx(average_precision_score(truth[chosen], scores[chosen]))
        assert each.categories.keys() == {line["category"] for line in mine if "category" in line}

    reset_thresholds(guard)
    assert (guard / "guard.json").read_bytes() == dumps(before)


class _Random:
    """Scores drawn from a pass's tokens: of all slots, labels and windows alike, whatever the weights would say."""

    def __init__(self, guard: Guard) -> None:
        manifest = guard.manifest
        # Where unsafe has many labels, argmax and the sum of them find other windows worst if safe leads the most.
        self.lead = np.zeros(len(manifest.columns))
        for slot in manifest.modes["response"].tree.slots:
            for choice in slot.choices:
                if choice.label is not None and manifest.labels[choice.label].severity == "safe":
                    self.lead[choice.column] = 1.5

    def run(self, request: Pass) -> Any:
        seed = int.from_bytes(hashlib.sha256(request.tokens.tobytes()).digest()[:8], "big")
        drawn = np.random.default_rng(seed).normal(size=(1, request.slots.size, self.lead.size))
        return (drawn + self.lead).astype(np.float32)


_GUARDS = (
    "kanana-safeguard-8b",
    "wildguard-ko-3b",
    "two deciding fields",
    "shieldgemma-2b",
    "llama-guard-3-1b",
    "qwen3guard-gen-0.6b",
)


def _opened(path: Path, several: bool, given: Lines) -> Guard:
    """A guard of random scores; several: of windows so small that some of the lines take a few."""
    guard = Guard.load(path)
    if several:
        plans = planner(guard, "response")
        frame = plans.length(plans.span({"prompt": "", "response": ""}))
        guard = Guard.load(path, max_tokens=frame + 200, max_windows=50)
    put_engine(guard, _Random(guard))
    assert (max(guard.check(line.text, line.response).windows for line in given.lines) > 1) == several
    return guard


def _random_lines(path: Path) -> Lines:
    rows = [{"text": text, "response": text[::-1], "unsafe": bool(text)} for text in ["", *texts(12, 7, longest=60)]]
    return read_labelled(write_lines(path, rows))


@pytest.mark.parametrize("name", _GUARDS)
@pytest.mark.parametrize("several", [False, True], ids=["one window", "windows"])
def test_scores_say_what_every_threshold_does(
    twin: Callable[[str], Path], tmp_path: Path, name: str, several: bool
) -> None:
    """Of guards with several fields, lines or policies too, and of text in several windows."""
    lines = _random_lines(tmp_path / "lines.jsonl")
    guard = _opened(twin(name), several, lines)
    plan = Plan.of(guard.manifest, "response", None)
    assert len(plan.fields) == {"two deciding fields": 2, "shieldgemma-2b": 4}.get(name, 1)
    scored = score(guard, lines, plan, plan.truth(lines, guard.manifest.modes["response"]), lambda: None)
    bounds = {0.0, 0.5, 1.0, *scored.scores[::2].tolist(), *np.nextafter(scored.scores[::2], 1).tolist()}
    for line, found, argmax in zip(lines.lines, scored.scores, scored.argmax, strict=True):
        assert guard.check(line.text, line.response, threshold={}).safe == (not argmax)
        for bound in bounds:
            for threshold in (bound, dict.fromkeys(plan.fields, bound)):
                assert guard.check(line.text, line.response, threshold=threshold).safe == (found < bound)


def test_other_thresholds_hold_while_one_is_chosen(twin: Callable[[str], Path], tmp_path: Path) -> None:
    """Where one field stands behind another, that one's threshold says which of its scores counts."""
    lines = _random_lines(tmp_path / "lines.jsonl")
    guard = _opened(twin("two deciding fields"), False, lines)
    spec = guard.manifest.modes["response"]
    before = Threshold(0.9, "f1", 1, "0" * 64)
    modes = {"response": replace(spec, thresholds={"harmful_request": before})}
    plan = Plan.of(replace(guard.manifest, modes=modes), "response", "harmful_response")
    rows = tuple(replace(line, labels={"harmful_response": line.number % 2 == 0}) for line in lines.lines)
    lines = replace(lines, lines=rows)
    scored = score(guard, lines, plan, plan.truth(lines, spec), lambda: None)
    assert scored.truth.tolist() == [line.number % 2 == 0 for line in rows]
    for line, found, argmax in zip(rows, scored.scores, scored.argmax, strict=True):
        for bound in (0.2, float(found), 0.7):
            threshold = {"harmful_request": 0.9, "harmful_response": bound}
            field = guard.check(line.text, line.response, threshold=threshold).fields["harmful_response"]
            assert field is not None
            assert (field.label == "yes") == (found >= bound)
        field = guard.check(line.text, line.response, threshold={"harmful_request": 0.9}).fields["harmful_response"]
        assert field is not None
        assert (field.label == "yes") == argmax


@pytest.mark.slow
def test_one_field(twin: Callable[[str], Path], tmp_path: Path) -> None:
    """By the labels of that field; the thresholds of the others stay, and hold while this one is chosen."""
    guard = Path(shutil.copytree(twin("shieldgemma-2b"), tmp_path / "guard"))
    given = texts(8, seed=9, longest=6)
    rows = [{"text": text, "unsafe": at % 3 == 0, "labels": {"hate": at % 2 == 0}} for at, text in enumerate(given)]
    labelled = write_lines(tmp_path / "lines.jsonl", rows)
    calibrate(guard, labelled, at="recall=0.75", resamples=0)
    four = open_guard(guard).modes["prompt"].thresholds
    assert four.keys() == {"dangerous", "harassment", "hate", "sexual"}
    assert len({each.score for each in four.values()}) == 1

    (report,) = calibrate(guard, labelled, at="recall=0.5", field="hate", resamples=0).modes
    assert report.fields == ("hate",)
    assert report.overall.unsafe == 4
    five = open_guard(guard).modes["prompt"].thresholds
    assert {**five, "hate": None} == {**four, "hate": None}
    opened = Guard.load(guard)
    found = [verdict.fields["hate"] for verdict in opened.check_many(given)]
    hits = sum(field is not None and field.score >= five["hate"].score for field in found[::2])
    assert hits == 2
    for text in given:
        verdict = opened.check(text)
        assert verdict.safe == all(f.score < five[name].score for name, f in verdict.fields.items() if f)

    # One that is judged only where it is named.
    rows = [{"text": text, "labels": {"violence": at < 4}} for at, text in enumerate(given)]
    violence = write_lines(tmp_path / "violence.jsonl", rows)
    calibrate(guard, violence, at="recall=1.0", field="violence", resamples=0)
    assert open_guard(guard).modes["prompt"].thresholds.keys() == {*four, "violence"}
    opened = Guard.load(guard)
    assert all(not opened.check(text, policies=["violence"]).safe for text in given[:4])

    reset_thresholds(guard, "violence")
    assert open_guard(guard).modes["prompt"].thresholds == five
    with pytest.raises(InputError, match=r"has thresholds of \['dangerous', .*nothing of violence to reset"):
        reset_thresholds(guard, "violence")


def test_a_field_that_judges_nothing(twin: Callable[[str], Path], tmp_path: Path) -> None:
    path = twin("llama-guard-3-1b")
    manifest = open_guard(path)
    with pytest.raises(InputError, match="--field is 'category', expected one of mode prompt of"):
        calibrate(path, write_lines(tmp_path / "a.jsonl", [{"text": "a", "unsafe": True}]), field="category")
    assert open_guard(path) == manifest


# What is wrong with a file, and what the error says. {} is the place of a good line.
_GOOD = {"text": _SECRET, "unsafe": True}
_BAD: dict[str, tuple[Any, str]] = {
    "empty": ([], "holds no lines, expected one JSON object a line with the keys text, response"),
    "all unsafe": ([_GOOD, _GOOD], "found 2 unsafe and 0 safe texts, expected some of both; label more texts"),
    "all safe": ([{"text": _SECRET, "unsafe": False}], "found 0 unsafe and 1 safe texts"),
    "no label": ([_GOOD, {"text": _SECRET}], r"line 2: the line has no label; give it \"unsafe\": true or false"),
    "a field's label": ([{"text": _SECRET, "labels": {"verdict": True}}], "line 1 has no label for this; give it"),
    "no text": ([{"unsafe": True}], 'line 1: the line has no "text"'),
    "no object": ([[_SECRET]], "line 1: the line holds list, expected an object"),
    "unknown key": ([_GOOD | {"prompt": _SECRET}], r"line 1: the line has unknown keys \['prompt'\], expected some of"),
    "text": ([_GOOD | {"text": 7}], "line 1: text is int, expected str"),
    "surrogate": ([_GOOD | {"text": _SECRET + "\ud800"}], "line 1: text has a lone surrogate at character"),
    "response": ([_GOOD | {"response": ["a"]}], "line 1: response is list, expected str"),
    "unsafe": ([_GOOD | {"unsafe": 1}], "line 1: unsafe is int, expected true or false"),
    "unsafe as text": ([_GOOD | {"unsafe": "yes"}], "line 1: unsafe is str, expected true or false"),
    "labels": ([_GOOD | {"labels": True}], "line 1: labels is bool, expected an object like"),
    "label": ([_GOOD | {"labels": {"hate": 1}}], "line 1: labels.hate is int, expected true or false"),
    "category": ([_GOOD | {"category": 4}], "line 1: category is int, expected a string"),
    "too long": ([_GOOD | {"text": "가" * 200_000}, {"text": "a", "unsafe": False}], "line 1: the text takes"),
    "not JSON": (b'{"text": "a"', "line 1: the line is not JSON"),
    "not UTF-8": (b'\n\n{"text": "\xff"}', "line 3: the line is not JSON in UTF-8"),
    "blank": (b" \n\t\n", "holds no lines"),
}


def _write(path: Path, content: Any) -> Path:
    data = content if isinstance(content, bytes) else "".join(json.dumps(line) + "\n" for line in content).encode()
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("case", _BAD)
def test_bad_lines(guard: Path, tmp_path: Path, case: str) -> None:
    content, says = _BAD[case]
    _refused(guard, _write(tmp_path / "lines.jsonl", content), says, TextTooLong if case == "too long" else InputError)


def _refused(guard: Path, labelled: Path, says: str, error: type[GuardpassError] = InputError, **options: Any) -> None:
    """It ends in this error, which quotes no text, and leaves guard and folder as they were."""
    before, folder = (guard / "guard.json").read_bytes(), files(guard.parent)
    with pytest.raises(error, match=says) as caught:
        calibrate(guard, labelled, **options)
    assert type(caught.value) is error
    assert _SECRET not in str(caught.value)
    assert (guard / "guard.json").read_bytes() == before
    assert files(guard.parent) == folder
    assert files(guard) == sorted([*open_guard(guard).files, "guard.json"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"at": "accuracy=0.9"}, "--at is 'accuracy=0.9', expected f1, precision"),
        ({"at": "precision=1.0"}, r"blind.jsonl, mode response: no threshold reaches precision=1\.0; the nearest is"),
        ({"field": "hate"}, r"--field is 'hate', expected one of mode prompt of \['verdict'\]"),
        ({"resamples": -1}, "bootstrap is -1, expected a whole number from 0 to 100000"),
        ({"resamples": True}, "bootstrap is True"),
        ({"threads": 0}, "threads is 0"),
        ({"plots": os.devnull}, "cannot make the folder"),
    ],
)
def test_bad_options(guard: Path, blind: Path, options: dict[str, Any], says: str) -> None:
    if "precision" in str(options):  # of one label more, the best-scored reply is a safe one
        rows = [json.loads(line) for line in blind.read_bytes().splitlines()]
        scores = {
            row["id"]: Guard.load(guard).check(row["text"], row["response"]).score for row in rows if "response" in row
        }
        best = max(scores, key=lambda name: scores[name])
        rows = [row | {"unsafe": row["unsafe"] and row["id"] != best} for row in rows]
        blind = write_lines(guard.parent.parent / "blind.jsonl", rows)
    _refused(guard, blind, says, **options)


def test_bad_files(guard: Path, blind: Path, exported: Callable[..., Path], tmp_path: Path) -> None:
    _refused(guard, tmp_path / "absent", "cannot read .*absent: No such file")
    _refused(guard, tmp_path, "cannot read")
    with pytest.raises(GuardError, match="cannot open guard"):
        calibrate(tmp_path / "absent", blind)
    with pytest.raises(InputError, match="has no thresholds, it goes by argmax already; there is nothing to reset"):
        reset_thresholds(guard)
    prompts = exported("siren: one-sided template")
    with pytest.raises(InputError, match=r"line \d+ needs the mode response, and .* judges \['prompt'\]; drop the"):
        calibrate(prompts, blind)


def test_a_write_that_fails(guard: Path, blind: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            _refused(guard, blind, "cannot write .*No space left on device; guard.json is as it was", resamples=0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        _refused(guard, blind, "cannot be written; copy the guard to a place of your own, or use --dry-run")
        assert not calibrate(guard, blind, resamples=0, dry_run=True).written
    assert not open_guard(guard).modes["prompt"].thresholds

    move = os.replace

    def mounted(source: Path, target: Path) -> None:
        if source.parent != target.parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        move(source, target)

    monkeypatch.setattr(os, "replace", mounted)  # a guard that is a mount of its own
    calibrate(guard, blind, resamples=0)
    assert open_guard(guard).modes["prompt"].thresholds
    assert files(tmp_path / "guards") == ["guard"]


_KILLED = """
import os, sys
from guardpass.bench import calibrate
def kill(*_): os.kill(os.getpid(), 9)
setattr(os, sys.argv[3], kill)
calibrate(sys.argv[1], sys.argv[2], resamples=0)
"""


@pytest.mark.parametrize("at", ["replace", "fsync"])
def test_a_write_that_is_killed(guard: Path, blind: Path, at: str) -> None:
    before = (guard / "guard.json").read_bytes()
    child = subprocess.run([sys.executable, "-c", _KILLED, str(guard), str(blind), at], timeout=60, check=False)
    assert child.returncode == -9
    assert (guard / "guard.json").read_bytes() == before
    open_guard(guard)


def test_a_guard_that_changed_in_the_meantime(guard: Path, blind: Path) -> None:
    """What another one wrote stays."""
    written = []

    def interfere(done: int, _total: int) -> None:
        if done == 1:
            calibrate(guard, blind, at="recall=0.5", resamples=0)
            written.append((guard / "guard.json").read_bytes())

    with pytest.raises(InputError, match="was changed in the meantime, and is left as it is; run this again"):
        calibrate(guard, blind, resamples=0, progress=interfere)
    assert [(guard / "guard.json").read_bytes()] == written


def test_no_text_is_told(guard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": f"{_SECRET} {at}", "response": _SECRET * at, "unsafe": at % 2 == 0} for at in range(8)]
    labelled = write_lines(tmp_path / "lines.jsonl", rows)
    report = calibrate(guard, labelled, resamples=10, plots=tmp_path / "plots")
    show_calibration(report)
    out, err = capsys.readouterr()
    assert "unsafe from" in out
    drawn = b"".join(path.read_bytes() for path in (tmp_path / "plots").iterdir())
    told = json.dumps(encode(report)) + out + err + repr(read_labelled(labelled))
    assert _SECRET not in told
    assert _SECRET.encode() not in drawn + (guard / "guard.json").read_bytes()


def test_the_table_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    rate = Estimate(0.91234, 0.88123, 0.94567)
    flagging = Flagging(rate, rate, rate, Estimate(None))
    metrics = Metrics(12000, 6000, rate, flagging, flagging)
    names = ("hate", "self-harm and other categories of a long name", "이름이 아주 긴 한국어 범주", "unbroken" * 9)
    threshold = Threshold(0.99671, "f1", 12000, "0" * 64)
    mode = ModeReport("response", ("verdict",), threshold, metrics, dict.fromkeys(names, metrics))
    show_calibration(Calibration("guard", "lines.jsonl", "f1", 1000, True, (mode,), ()))
    out = capsys.readouterr().out
    assert max(cell_len(line) for line in out.splitlines()) <= 80
    assert out.count("0.881-0.946") == 7 * (1 + len(names))  # no number is cut
    assert "unbroken" * 9 in "".join(line.split(" ")[0] for line in out.splitlines()).replace("category", "")


def test_plots(guard: Path, blind: Path, tmp_path: Path) -> None:
    report = calibrate(guard, blind, resamples=0, plots=tmp_path / "a" / "plots", dry_run=True)
    names = ["precision-recall-prompt.png", "precision-recall-response.png", "scores-prompt.png", "scores-response.png"]
    assert files(tmp_path / "a" / "plots") == names
    assert all(is_picture(Path(path)) for path in report.plots)


_BARE = """
import sys
from importlib import util
absent = {"sklearn", "matplotlib"}
find = util.find_spec
util.find_spec = lambda name, package=None: None if name in absent else find(name, package)
sys.modules.update(dict.fromkeys(absent))  # importing one of them fails
from guardpass.cli import main
main()
"""


def _run(*arguments: object, code: int = 0, bare: bool = False) -> tuple[str, str]:
    """(stdout, stderr) of a command; bare: without the packages of the bench extra."""
    start = ["-c", _BARE] if bare else ["-m", "guardpass"]
    child = subprocess.run(
        [sys.executable, *start, *map(str, arguments)], capture_output=True, timeout=120, check=False
    )
    out, err = child.stdout.decode(), child.stderr.decode()
    assert (child.returncode, "Traceback" in err) == (code, False), err
    return out, err


@pytest.mark.slow
def test_the_command(guard: Path, blind: Path, tmp_path: Path) -> None:
    out, err = _run("calibrate", guard, blind, "--at", "recall=0.95", "--bootstrap", 20, "--plots", tmp_path / "plots")
    assert not err
    found = open_guard(guard).modes["prompt"].thresholds["verdict"]
    assert f"mode prompt, verdict: unsafe from {found.score:.6g}, chosen for recall=0.95 on {found.texts} texts" in out
    assert f"{guard}/guard.json has the thresholds now" in out
    assert "category <UNSAFE-S4>" in out
    shown, _ = _run("info", guard)
    assert f"verdict: unsafe from {found.score:.6g}, chosen for recall=0.95 on {found.texts} texts" in shown
    assert "verdicts (built-in) as in fp32" in shown
    info = json.loads(_run("info", guard, "--json")[0])
    assert info["modes"]["prompt"]["thresholds"] == {"verdict": encode(found)}

    out, err = _run("calibrate", guard, blind, "--dry-run", "--json", "--bootstrap", 20)
    assert not err
    report = json.loads(out)
    assert report == encode(calibrate(guard, blind, dry_run=True, resamples=20))
    assert report["written"] is False
    out, _ = _run("calibrate", guard, "--reset")
    assert "all fields by argmax again" in out
    assert not open_guard(guard).modes["prompt"].thresholds

    for arguments, code, says in [
        (("calibrate", guard, blind, "--reset"), 2, "expected either LABELLED.jsonl or --reset"),
        (("calibrate", tmp_path / "absent", blind), 3, "cannot open guard"),
    ]:
        out, err = _run(*arguments, code=code)
        assert not out
        assert says in err


def test_without_the_bench_extra(guard: Path, blind: Path) -> None:
    assert "score" in _run("check", guard, "hello", bare=True)[0]
    for options in ((), ("--plots", "x")):
        _, err = _run("calibrate", guard, blind, *options, code=2, bare=True)
        assert "calibrating needs scikit-learn; install guardpass[bench]" in err


def test_other_commands_do_not_wait_for_it() -> None:
    code = "import sys, guardpass.bench.commands, guardpass.bench; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    assert not {"sklearn", "matplotlib", "scipy", "rich", "onnxruntime"} & set(loaded)


def test_info_shows_the_gate(guard: Path) -> None:
    manifest = open_guard(guard)
    digest = "0" * 64
    gate = Gate(
        texts=400,
        source="built-in",
        sha256=digest,
        agreement=0.9975,
        flips=(Flip(digest, "prompt", "verdict", -0.1, 0.2),),
        mean_score_change=0.0011,
        worst_score_change=0.061,
        kl=0.00042,
        max_flip_rate=0.01,
    )
    changed: Manifest = replace(manifest, gate=gate, ungated=None)
    (guard / "guard.json").write_bytes(dumps(changed))
    (line,) = [line for line in _run("info", guard)[0].splitlines() if line.startswith("gate")]
    assert line == (
        "gate: 99.75% of 400 verdicts (built-in) as in fp32, 1 flips, kl 0.00042, scores 0.0011 off in the mean, "
        "0.061 at worst"
    )
