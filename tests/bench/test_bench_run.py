"""`guardpass bench`: what is asked, how scenarios count time, and a whole run beside peers whose answers are known."""

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from guardpass import Guard, InputError
from guardpass.bench.peers.protocol import Answer, Question
from guardpass.bench.peers.table import Peer, Setting
from guardpass.bench.speed.measure import scenarios
from guardpass.bench.speed.measure.arrivals import arrivals
from guardpass.bench.speed.measure.contenders import RunContext, chosen
from guardpass.bench.speed.measure.peaks import peaks
from guardpass.bench.speed.measure.prepare import Options, Prepared, prepare
from guardpass.bench.speed.measure.questions import Questions
from guardpass.bench.speed.measure.rows import report as report_of
from guardpass.bench.speed.measure.run import Plan, run
from guardpass.bench.speed.report.files import read_report, write_report
from guardpass.bench.speed.report.markdown import markdown
from guardpass.bench.twins import find, tiny, write_twin
from guardpass.errors import CheckpointError
from guardpass.export import export_guard

from ..support.published import CASES, Case

_FEW = [case for case in CASES if case.twin in ("kanana-safeguard-8b", "shieldgemma-2b", "llama-guard-3-1b")]


@pytest.mark.parametrize("case", _FEW, ids=lambda case: case.twin)
def test_peers_are_asked_what_the_template_says(case: Case, tmp_path: Path) -> None:
    checkpoint = tmp_path / case.twin
    write_twin(tiny(find(case.twin)), checkpoint)
    export_guard(checkpoint, tmp_path / "guard", family=case.family, quant="fp32")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint)
    questions = Questions(tmp_path / "guard")
    guard = Guard.load(tmp_path / "guard", threads=1)
    for asked in [*questions.of_length(24, 5), *questions.judged(12)]:
        text, found = asked.question["text"], asked.question["ids"]
        expected = case.prompts(tokenizer, text, None)[questions.policy][1]
        # A guard may write something before it answers, "\n\n" as Llama Guard does: the slot is behind that.
        assert found[: len(expected)] == expected
        assert tokenizer.decode(found[len(expected) :]).strip() == ""
        verdict = guard.check(text, policies=[questions.policy] if questions.policy else None, threshold={})
        labels = [tokenizer.decode([token]).strip() for token in asked.question["labels"]]
        assert verdict.label.strip("<>").casefold() in [each.strip("<>").casefold() for each in labels]
    for tokens in (1, 16, 100):
        lengths = [asked.content for asked in questions.of_length(tokens, 4)]
        assert lengths == [tokens] * 4
    timed = [asked for tokens in (16, 40, 41, 300) for asked in questions.of_length(tokens, 20)]
    assert len({asked.question["text"][:12] for asked in timed}) == len(timed)


class _Fake:
    """Takes so long for each answer; stalls once."""

    def __init__(self, seconds: float, stall: float = 0.0, at: int = -1) -> None:
        self._seconds, self._stall, self._at, self._done = seconds, stall, at, 0
        self._sent: queue.Queue[Question] = queue.Queue()

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        return [self._answer() for _ in questions]

    def send(self, question: Question) -> None:
        self._sent.put(question)

    def receive(self) -> Answer:
        self._sent.get()
        return self._answer()

    def _answer(self) -> Answer:
        started = time.perf_counter()
        time.sleep(self._seconds + (self._stall if self._done == self._at else 0))
        self._done += 1
        return {"label": 0, "started": started, "ended": time.perf_counter(), "split": {}, "run": None}


_NOTHING: Question = {"text": "", "response": None, "ids": [1], "labels": [1, 2], "steps": 1}


def test_times_in_turn_are_those_of_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenarios, "_REST_S", 0)
    fast, slow = scenarios.in_turn([_Fake(0.01), _Fake(0.03)], [_NOTHING] * 9, 2)
    assert len(fast.answers) == len(slow.answers) == 7
    assert 10 <= np.median(scenarios.milliseconds(fast.answers)) < 30
    assert np.median(scenarios.milliseconds(slow.answers)) >= 30
    began = [[answer["started"] for answer in each.answers] for each in (fast, slow)]
    first = np.array(began[0]) < np.array(began[1])
    assert first.any()
    assert not first.all()
    assert fast.peaks == slow.peaks == []


def test_the_peak_is_taken_before_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moments stand in for peaks: each is before its request, and behind whatever ran before that."""
    monkeypatch.setattr(scenarios, "_REST_S", 0)
    found = scenarios.in_turn([_Fake(0.002), _Fake(0.002)], [_NOTHING] * 5, 2, time.perf_counter)
    assert [len(each.peaks) for each in found] == [3, 3]
    turns = [
        pair
        for each in found
        for pair in zip(each.peaks, ((answer["started"], answer["ended"]) for answer in each.answers), strict=True)
    ]
    moments = [moment for peak, (began, ended) in sorted(turns) for moment in (peak, began, ended)]
    assert moments == sorted(moments)


def test_a_stall_shows_in_all_that_arrive_meanwhile() -> None:
    """Coordinated omission: were latency counted from when a request is taken up, one of a hundred would be slow."""
    times = arrivals(100, 100, seed=1).tolist()
    steady, _ = scenarios.open_loop(_Fake(0.001), [_NOTHING] * 100, times)
    stalled, seconds = scenarios.open_loop(_Fake(0.001, stall=0.4, at=30), [_NOTHING] * 100, times)
    assert np.quantile(steady, 0.95) < 200 < np.quantile(stalled, 0.95)
    assert sum(late > 100 for late in stalled) > 15
    assert seconds >= times[-1] - times[0]


def test_the_highest_rate_holds_the_bound() -> None:
    """Of what takes 4 ms, less than 250 a second are served; no bound is held by what takes longer than it."""
    tried = scenarios.highest_rate(_Fake(0.004), [_NOTHING] * 80, 4, 40, seed=0)
    best = tried[-1]
    assert best.held
    assert best.ms.p95 is not None
    assert best.ms.p95 <= 40
    assert 50 < best.rate < 250
    assert all(not each.held for each in tried if each.rate > best.rate)
    assert not any(each.held for each in scenarios.highest_rate(_Fake(0.004), [_NOTHING] * 80, 4, 1, seed=0))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("twin") / "kanana-safeguard-prompt-2.1b"
    write_twin(tiny(find(path.name)), path)
    return path


_ADAPTER = """
import time
PACKAGES = ("numpy",)
def load(options):
    if options.get("broken"): raise OSError("no model here")
    def one(question):
        time.sleep(0.03)
        return {"label": options["label"], "split": {"pass": 30.0}}
    return lambda questions: [one(each) for each in questions]
"""


def _plan(**changed: Any) -> Plan:
    plan: dict[str, Any] = {
        "quants": ("int8", "fp32"),
        "peers": (),
        "scenarios": frozenset({"single"}),
        "lengths": (8, 32),
        "turns": 7,
        "texts": 24,
        "load": 8,
        "requests": 75,
        "p95_ms": None,
        "neighbours": 0,
        "seed": 0,
    }
    return Plan(**plan | changed)


def test_a_whole_run(checkpoint: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "constant.py"
    adapter.write_text(_ADAPTER)
    settings = tuple(Setting(f"label {label}", "none", {"label": label}) for label in range(3))
    broken = Setting("broken", "none", {"broken": True})
    peer = Peer("constant", str(adapter), (*settings, broken))
    plan = _plan(
        peers=tuple((peer, each) for each in peer.settings), scenarios=frozenset({"single", "server", "offline"})
    )
    told: list[str] = []
    given = RunContext(1, None, tmp_path / "work")
    report = report_of("guardpass bench", list(run([str(checkpoint)], plan, Options(), given, told.append)))

    names = ["int8", "fp32", "label 0", "label 1", "label 2"]
    assert sorted({row.contender.setting for row in report.latency}) == sorted(names)
    latency = {(row.contender.setting, row.content): row for row in report.latency}
    for tokens in (8, 32):
        first = latency["int8", tokens]
        assert first.ms.n == 7
        assert first.ratio is None
        assert first.run < first.prompt
        assert first.split.keys() == {"tokenize", "pass", "rest"}
        for name in names:
            row = latency[name, tokens]
            beside = row.peaks or ()
            assert len(beside) == (7 if find_spec("guardpass_kernels") else 0)
            if beside and row.operations and row.share:
                # All that the constant workers say of their passes is that they take 30 ms.
                constant = name in names[2:]
                ms = [30.0] * 7 if constant else row.samples
                share = np.median([row.operations / 1e6 / each / peak for each, peak in zip(ms, beside, strict=True)])
                assert row.share == pytest.approx(share) if constant else row.share > share
        for name in names[2:]:
            row = latency[name, tokens]
            assert 30 <= row.ms.median < 90
            assert row.ratio is not None
            assert row.ratio > 2
            assert row.prompt == row.run == first.prompt
            assert row.operations
            assert first.operations
            assert row.operations > first.operations
    agreement = {row.contender.setting: row.agreement for row in report.fidelity}
    assert agreement["fp32"] == 1
    assert sum(agreement[name] for name in names[2:]) == pytest.approx(1)  # each text has one label
    assert {row.contender.setting for row in report.cost} == set(names)
    assert all(row.resident_mb > 5 and row.load_s >= 0 for row in report.cost)
    assert all(row.requests / row.seconds == pytest.approx(row.rate) for row in report.offline)
    constant = next(row for row in report.offline if row.contender.setting == "label 0")
    assert 10 < constant.rate < 1 / 0.03
    chosen_rate = [row for row in report.rate if row.chosen and row.contender.setting == "label 0"]
    assert len(chosen_rate) == 1
    assert chosen_rate[0].rate < 1 / 0.03
    (lost,) = report.skipped
    assert lost.setting == "broken"
    assert "no model here" in lost.reason
    assert "constant.py" in lost.command
    write_report(report, tmp_path / "report.json")
    assert read_report(tmp_path / "report.json") == report
    assert "label 2" in markdown(report)
    assert any("32 tokens" in line for line in told)
    # Of the setting that failed its files alone were begun, and that it did was told.
    assert len(told) == plan.steps(1) - (len(plan.lengths) + 3) + 1

    guards = sorted((tmp_path / "work" / "guards").iterdir())
    stamps = [path.stat().st_mtime_ns for path in guards]
    again = prepare(str(checkpoint), ("int8", "fp32"), tmp_path / "work", Options())
    assert stamps == [path.stat().st_mtime_ns for path in guards]
    alone = prepare(str(again.guards[0].path), ("int8",), tmp_path / "work", Options())
    assert (alone.weights, alone.checkpoint, alone.guards[0].engine.quant) == ("guard", None, "int8")


def test_a_guard_alone_and_beside_a_busy_process(checkpoint: Path, tmp_path: Path) -> None:
    guard = prepare(str(checkpoint), ("int8",), tmp_path, Options()).guards[0].path
    before = threading.active_count()
    plan = _plan(lengths=(8,), neighbours=1, peers=tuple(chosen(["transformers"], ["fp32"])))
    given = RunContext(1, (0,), tmp_path, ", beside")
    report = report_of("", list(run([str(guard)], plan, Options(), given, lambda _line: None)))
    (row,) = report.latency
    assert (row.contender.setting, row.contender.weights, row.operations) == ("int8, beside", "guard", None)
    assert not report.fidelity
    assert "needs the checkpoint" in report.skipped[0].reason
    assert threading.active_count() == before


def test_what_cannot_be_benched_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused: Sequence[tuple[Callable[[], Prepared | object], str]] = (
        (lambda: prepare(str(tmp_path / "empty"), ("int8",), tmp_path, Options()), "neither guard.json nor"),
        (lambda: prepare("no-such-guard", ("int8",), tmp_path, Options()), "unknown checkpoint"),
        (lambda: prepare(str(checkpoint), ("int3",), tmp_path, Options()), "int3"),
        (lambda: chosen(["llama.cp"], []), "unknown peer"),
        (lambda: chosen(["llama.cpp"], ["q9"]), "leaves no setting"),
    )
    for call, words in refused:
        with pytest.raises(InputError, match=words):
            call()
    assert not list(tmp_path.rglob("guards/*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--scenario", "singel"), "--scenario"),
        (("--lengths", "16,x"), "--lengths"),
        (("--quant", ","), "--quant"),
        (("--json", "no/such/folder/x.json"), "no/such/folder"),
        (("--quant", "int8,int3"), "int3"),
        (("--mode", "reply"), "--mode"),
        (("--family", "nobody"), "unknown family 'nobody'"),
        (("--family", "absent.toml"), "absent.toml"),
        (("--date", "2025-02-30"), "date is '2025-02-30'"),
        (("--tokenizer", "absent"), "--tokenizer is absent"),
        (("no-such-guard",), "unknown checkpoint 'no-such-guard'"),
    ],
)
def test_wrong_options_end_with_a_message(options: tuple[str, ...], words: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "guardpass", "bench", "kanana-safeguard-8b", "--work", str(tmp_path), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "peaks" not in done.stderr  # measured first, and for half a minute
    assert not list(tmp_path.iterdir())


def test_the_command_line(checkpoint: Path, tmp_path: Path) -> None:
    """A run, shown again and compared with itself."""
    bench = [sys.executable, "-m", "guardpass", "bench"]
    options = ["--lengths", "8", "--turns", "6", "--texts", "4", "--threads", "1", "--work", str(tmp_path / "work")]
    result = tmp_path / "a.json"
    command = [*bench, str(checkpoint), *options, "--json", str(result), "--plots", str(tmp_path / "plots")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "guardpass int8" in done.stdout
    assert json.loads(result.read_text())["latency"]
    assert {path.suffix for path in (tmp_path / "plots").iterdir()} == {".png", ".svg"}
    shown = subprocess.run([*bench, "show", str(result)], capture_output=True, text=True, check=True)
    assert shown.stdout == done.stdout
    compared = subprocess.run([*bench, "compare", str(result), str(result)], capture_output=True, text=True, check=True)
    assert "within noise" in compared.stdout


def test_what_was_measured_before_a_failure_is_kept(checkpoint: Path, tmp_path: Path) -> None:
    options = ["--lengths", "8", "--turns", "6", "--texts", "0", "--threads", "1", "--work", str(tmp_path / "work")]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    command = [sys.executable, "-m", "guardpass", "bench", str(checkpoint), str(tmp_path / "broken"), *options]
    done = subprocess.run([*command, "--json", str(tmp_path / "a.jsonl")], capture_output=True, text=True)
    assert done.returncode == CheckpointError.exit_code
    assert "broken" in done.stderr
    kept = read_report(tmp_path / "a.jsonl")
    assert [len(kept.peaks), len(kept.latency), len(kept.cost)] == [1, 1, 1]


def test_the_machine_has_peaks() -> None:
    found = peaks(1)
    assert found.int8
    assert found.fp32
    assert found.bf16
    assert min(found.int8, found.fp32, found.bf16, found.read_gb_s) > 0
    assert set(found.by) == {"int8", "fp32", "bf16", "read"}
