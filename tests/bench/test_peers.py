"""Peers: how their processes talk and fail, and what those of our environment answer beside transformers in fp32."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import PreTrainedTokenizerFast

from guardpass import InputError, MissingDependency
from guardpass.bench.peers import protocol
from guardpass.bench.peers.converters.w8a8 import quantized, write_w8a8
from guardpass.bench.peers.environments import python_of, setup_peer
from guardpass.bench.peers.errors import PeerError, PeerMissing
from guardpass.bench.peers.files import prepare
from guardpass.bench.peers.launch import best, worker
from guardpass.bench.peers.protocol import Question
from guardpass.bench.peers.table import GUARDPASS, PEERS, Files, Peer, Setting, find
from guardpass.bench.peers.worker import Worker
from guardpass.bench.reference import load_reference
from guardpass.bench.speed.measure.rows import skipped
from guardpass.bench.twins import find as find_twin
from guardpass.bench.twins import tiny, write_twin
from guardpass.export import export_guard
from guardpass.export.checkpoint.files import Checkpoint

from ..support.helpers import texts
from ..support.published import CASES, Case
from ..support.twins import Twins, wide

pytestmark = pytest.mark.llamacpp  # which a peer's process runs

# Answers what it is told to in `ids`: the label's index, or a way to misbehave.
_FAKE = """
import os, subprocess, sys, time
PACKAGES = ("pip", "no-such-package")
def load(options):
    print("loading"); os.system("echo from a child"); os.write(1, b"from C\\n")
    if options.get("load") == "raise": raise ValueError("no such model")
    if options.get("load") == "die": print("bye", file=sys.stderr, flush=True); os._exit(7)
    if options.get("load") == "hang": time.sleep(600)
    children = [subprocess.Popen(["sleep", "600"]) for _ in range(options.get("children", 0))]
    def one(question):
        what = question["ids"][0]
        print("asked", what)
        if what == -1: raise KeyError("no label")
        if what == -2: os.kill(os.getpid(), 9)
        if what == -3: return {"label": 0, "run": bytearray(64 << 20).count(1)}
        if what == -4: return {"label": len(children), "run": children[0].pid}
        if what == -5: return {"label": len(os.sched_getaffinity(0)), "run": int(os.environ["OMP_NUM_THREADS"])}
        time.sleep(options.get("delay", 0))
        return {"label": what, "run": len(question["ids"]), "split": {"pass": 1.5}}
    return lambda questions: [one(each) for each in questions][: options.get("most")]
"""


@pytest.fixture
def fake(tmp_path: Path) -> Callable[..., Worker]:
    """A worker of the fake peer, not yet started."""
    path = tmp_path / "fake.py"
    path.write_text(_FAKE)

    def make(limit_s: float = 60, affinity: Sequence[int] | None = None, **options: Any) -> Worker:
        return Worker(path, options, threads=3, limit_s=limit_s, affinity=affinity)

    return make


def _question(*ids: int) -> Question:
    return {"text": "", "response": None, "ids": list(ids), "labels": [1, 2], "steps": 1}


def test_round_trip(fake: Callable[..., Worker]) -> None:
    """A peer that prints from Python, from a child and from C, is understood all the same."""
    before = time.perf_counter()
    with fake() as running:
        assert set(running.versions) == {"python", "pip"}
        assert running.first_verdict_s is None
        first, second = running.ask([_question(1), _question(0, 5)])
        assert (first["label"], first["run"], first["split"]) == (1, 1, {"pass": 1.5})
        assert (second["label"], second["run"]) == (0, 2)
        # One clock for both processes.
        assert before < first["started"] <= first["ended"] <= second["started"] <= second["ended"] < time.perf_counter()
        assert 0 <= running.load_s < running.ready_s
        assert running.ready_s < running.first_verdict_s < time.perf_counter() - before
        assert running.ask([]) == []


def test_an_open_loop_keeps_order_and_times(fake: Callable[..., Worker]) -> None:
    """Questions pile up while the peer is busy; more of them than a pipe usually holds."""
    count, delay = 60, 0.002
    with fake(delay=delay) as running:
        questions = [_question(number, *range(1000)) for number in range(count)]
        sender = threading.Thread(target=lambda: [running.send(each) for each in questions])
        sender.start()
        answers = [running.receive() for _ in questions]
        sender.join()
    assert [each["label"] for each in answers] == list(range(count))
    assert all(each["ended"] - each["started"] >= delay for each in answers)
    assert all(b["started"] >= a["ended"] for a, b in pairwise(answers))


def test_an_adapter_that_batches_is_given_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "together.py"
    path.write_text(
        "PACKAGES = ()\nBATCHES = True\ndef load(options):\n    return lambda all: [{'label': len(all)} for _ in all]\n"
    )
    with Worker(path, {}, threads=1) as running:
        found = running.ask([_question(0)] * 3)
        assert [each["label"] for each in found] == [3, 3, 3]
        assert len({(each["started"], each["ended"]) for each in found}) == 1
        assert found[0]["run"] is None


def test_threads_and_affinity(fake: Callable[..., Worker]) -> None:
    with fake(affinity=[0]) as running:
        (found,) = running.ask([_question(-5)])
        assert (found["label"], found["run"]) == (1, 3)


def test_memory(fake: Callable[..., Worker]) -> None:
    """A peak stays when the memory is given back; a child counts."""
    with fake(children=1) as running:
        resident, peak = running.memory()
        assert 5 < resident <= peak + 1
        running.ask([_question(-3)])
        after, risen = running.memory()
        assert risen - peak > 60
        assert after < risen - 30
    with fake() as alone:
        assert alone.memory()[0] < resident


def test_errors_in_an_answer_leave_the_peer_at_work(fake: Callable[..., Worker]) -> None:
    with fake() as running:
        with pytest.raises(PeerError, match="fake failed: KeyError: 'no label'"):
            running.ask([_question(-1)])
        assert running.ask([_question(1)])[0]["label"] == 1
    with fake(most=0) as running, pytest.raises(PeerError, match="0 answers to 1 questions"):
        running.ask([_question(1)])


@pytest.mark.parametrize(
    ("load", "message"),
    [
        ("raise", "ValueError: no such model"),
        ("die", r"(?s)it ended \(exit code 7\).*\n  bye"),
        ("hang", "nothing in 1 s"),
    ],
)
def test_a_peer_that_does_not_load(load: str, message: str, fake: Callable[..., Worker]) -> None:
    with pytest.raises(PeerError, match=message) as caught, fake(limit_s=1 if load == "hang" else 60, load=load):
        pass
    assert "protocol.py" in caught.value.command
    if load == "hang":
        return
    by_hand = subprocess.run(caught.value.command, shell=True, capture_output=True, text=True, check=False)
    assert by_hand.returncode
    assert ("no such model" if load == "raise" else "bye") in by_hand.stderr


def test_a_peer_that_dies_at_work(fake: Callable[..., Worker]) -> None:
    with fake() as running:
        running.ask([_question(1)])
        with pytest.raises(PeerError, match=r"(?s)it ended \(exit code -9\).*\n  asked -2"):
            running.ask([_question(-2)])
        for call in (lambda: running.ask([_question(1)]), running.receive, running.memory):
            with pytest.raises(PeerError, match="start another worker"):
                call()


def test_a_process_that_talks_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a python that greets, or stops reading."""
    for line, expected in (("hello", "it said b'hello', expected 'ready'"), ("[1]", "expected 'ready'")):
        script = tmp_path / "protocol.py"
        script.write_text(f"print({line!r}, flush=True)")
        monkeypatch.setattr(protocol, "__file__", str(script))
        with pytest.raises(PeerError, match=expected), Worker(tmp_path / "any.py", {}, threads=1):
            pass
    with pytest.raises(PeerError, match="cannot start"), Worker(script, {}, threads=1, python=tmp_path / "none"):
        pass


def test_garbage_is_answered_with_an_error(tmp_path: Path) -> None:
    path = tmp_path / "fake.py"
    path.write_text(_FAKE)
    lines = ['{"options": {}}', "{]", '{"ask": 3}', "[]", '{"memory": true}']
    command = [sys.executable, "-P", protocol.__file__, str(path)]
    done = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=True)
    ready, *errors, last = map(json.loads, done.stdout.splitlines())
    assert set(ready) == {"ready"}
    assert [set(each) for each in errors] == [{"error"}] * 3
    assert last["resident_mb"] > 1


def test_what_a_peer_started_ends_with_it(fake: Callable[..., Worker]) -> None:
    with fake(children=1) as running:
        (found,) = running.ask([_question(-4)])
    child = Path(f"/proc/{found['run']}/stat")
    for _ in range(100):
        if not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the child lives on")


@dataclass(frozen=True)
class Subject:
    """A checkpoint, prompts of it up to the first slot, and transformers' scores behind them in fp32."""

    case: Case
    checkpoint: Path
    prompts: list[tuple[str, str | None, list[int]]]
    scores: list[torch.Tensor]  # [vocabulary]

    def questions(self, labels: Sequence[int]) -> list[Question]:
        return [
            {"text": a, "response": b, "ids": ids, "labels": list(labels), "steps": 3} for a, b, ids in self.prompts
        ]

    def expected(self, labels: Sequence[int]) -> list[int]:
        return [int(scores[list(labels)].argmax()) for scores in self.scores]


@pytest.fixture(scope="module")
def subjects(twins: Twins) -> Callable[[str], Subject]:
    """Of a family whose first slot lies right behind the prompt; made once."""
    made: dict[str, Subject] = {}

    def make(family: str) -> Subject:
        if family not in made:
            case = next(case for case in CASES if case.family == family)
            path = twins.checkpoint(wide(tiny(find_twin(case.twin))))
            tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
            prompts = []
            for text, reply in zip(texts(12, seed=31, longest=20), texts(12, seed=32, longest=20), strict=True):
                response = reply if len(prompts) % 2 else None
                _, ids = next(iter(case.prompts(tokenizer, text, response).values()))
                prompts.append((text, response, ids))
            model = load_reference(path, torch.float32)
            with torch.no_grad():
                scores = [model(torch.tensor([ids])).logits[0, -1] for _, _, ids in prompts]
            made[family] = Subject(case, path, prompts, scores)
        return made[family]

    return make


_ANY = range(300)  # so many labels that agreement is no chance


def _labels(peer: Peer, setting: Setting, path: Path, questions: Sequence[Question]) -> list[int]:
    with worker(peer, setting, path, path.parent, threads=1) as running:
        return [answer["label"] for question in questions for answer in running.ask([question])]


def test_transformers_answers_as_its_scores_say(subjects: Callable[[str], Subject]) -> None:
    subject, peer = subjects("kanana-safeguard"), find("transformers")
    expected = subject.expected(_ANY)
    assert len(set(expected)) > 3
    for setting in peer.settings[:3]:  # generate of one token and of three, and the forward pass alone
        one = replace(setting, options={**setting.options, "dtype": "float32"})
        assert _labels(peer, one, subject.checkpoint, subject.questions(_ANY)) == expected


@pytest.mark.parametrize("family", ["kanana-safeguard", "shieldgemma"])
def test_llama_cpp_answers_as_transformers(family: str, subjects: Callable[[str], Subject], tmp_path: Path) -> None:
    subject, peer = subjects(family), find("llama.cpp")
    for setting in peer.settings[:2]:  # cold, and with the prefix kept
        assert setting.files
        whole = replace(setting, files=replace(setting.files, command=(*setting.files.command[:-1], "f32")))
        made = prepare(peer, whole, subject.checkpoint, tmp_path)
        assert _labels(peer, whole, made.path, subject.questions(_ANY)) == subject.expected(_ANY)


@pytest.mark.parametrize("quant", ["q8_0", "q4_k_m", "q4_0"])
def test_a_kept_prefix_answers_alike_and_runs_less(
    quant: str, subjects: Callable[[str], Subject], tmp_path: Path
) -> None:
    subject, peer = subjects("kanana-safeguard"), find("llama.cpp")
    cold, kept = (setting for setting in peer.settings if setting.quant == quant)
    assert kept.prefix_kept
    assert not cold.prefix_kept
    found = []
    for setting in (cold, kept):
        path = prepare(peer, setting, subject.checkpoint, tmp_path).path
        with worker(peer, setting, path, tmp_path, threads=1) as running:
            found.append(running.ask(subject.questions(_ANY)))
    (one, two), lengths = found, [len(ids) for _, _, ids in subject.prompts]
    # Where a batch begins decides how llama.cpp rounds (docs/gguf.md), and of so many labels two may be as good.
    assert sum(a["label"] == b["label"] for a, b in zip(one, two, strict=True)) >= len(one) - 1
    assert [each["run"] for each in one] == lengths
    assert two[0]["run"] == lengths[0]
    assert all(each["run"] < length for each, length in zip(two[1:], lengths[1:], strict=True))


@pytest.mark.parametrize("family", ["kanana-safeguard", "shieldgemma"])
def test_guardpass_answers_as_transformers(family: str, subjects: Callable[[str], Subject], tmp_path: Path) -> None:
    """By the same labels in another order too, so that no constant passes; of several policies by the first."""
    subject = subjects(family)
    manifest = export_guard(
        subject.checkpoint, tmp_path / "guard", family=family, date=subject.case.date, quant="fp32", gate=False
    )
    tree = manifest.modes["prompt"].tree
    labels = [manifest.columns[choice.column] for choice in tree.slots[tree.roots[0]].choices]
    asked = subject.case.row.asked
    setting = Setting("fp32", "fp32", {"passes": [[asked[0]]]} if asked else {})
    for order in (labels, labels[::-1]):
        with worker(GUARDPASS, setting, tmp_path / "guard", tmp_path, threads=1) as running:
            found = running.ask(subject.questions(order))
        assert [each["label"] for each in found] == subject.expected(order)
        assert all(set(each["split"]) == {"tokenize", "pass", "rest"} for each in found)
        assert all(0 < (each["run"] or 0) < len(ids) for each, (_, _, ids) in zip(found, subject.prompts, strict=True))


def test_a_label_that_takes_several_slots_is_its_first_token(tmp_path: Path) -> None:
    """Llama Guard's S1 and S10 begin alike; wildguard-ko's fields follow one another."""
    from guardpass.bench.peers.adapters.guardpass import _tokens

    for family in ("llama-guard-3-1b", "wildguard-ko"):
        case = next(case for case in CASES if case.family == family)
        write_twin(tiny(find_twin(case.twin)), tmp_path / family)
        manifest = export_guard(
            tmp_path / family, tmp_path / f"{family}-guard", family=family, date=case.date, quant="fp32", gate=False
        )
        tree = manifest.modes["prompt"].tree
        for slot in tree.slots:
            if any(slot.field == tree.slots[root].field for root in tree.roots):
                names = {choice.label for choice in slot.choices if choice.label is not None}
                field = _tokens(manifest, "prompt", slot.field)
                assert {manifest.labels[each].name for each in names} <= set(field)
                assert set(field.values()) <= set(manifest.columns)


def test_files_are_made_once_and_anew_for_another_checkpoint(tmp_path: Path) -> None:
    script = "import pathlib, sys; pathlib.Path(sys.argv[2], 'model').write_bytes(b'x' * 3000000)"
    setting = Setting("any", "any", {}, Files("any", ("{own}", "-c", script, "{checkpoint}", "{out}"), "model"))
    peer, checkpoint = replace(GUARDPASS, settings=(setting,)), tmp_path / "twin"
    write_twin(tiny(find_twin("kanana-safeguard-8b")), checkpoint)
    made = prepare(peer, setting, checkpoint, tmp_path)
    assert made.path.read_bytes() == b"x" * 3000000
    assert made.mb == 3
    assert made.convert_s
    made.path.write_bytes(b"y")
    assert prepare(peer, setting, checkpoint, tmp_path) == made
    assert made.path.read_bytes() == b"y"
    (checkpoint / "config.json").write_text((checkpoint / "config.json").read_text() + " ")
    prepare(peer, setting, checkpoint, tmp_path)
    assert made.path.read_bytes() != b"y"
    plain = prepare(peer, replace(setting, files=None), checkpoint, tmp_path)
    assert (plain.path, plain.convert_s) == (checkpoint, None)


def test_files_that_cannot_be_made_say_why(tmp_path: Path) -> None:
    checkpoint = tmp_path / "twin"
    write_twin(tiny(find_twin("kanana-safeguard-8b")), checkpoint)
    setting = Setting("any", "any", {}, Files("any", ("{own}", "-c", "raise SystemExit('no room')", "{out}")))
    with pytest.raises(PeerError, match=r"any cannot be made of twin \(exit code 1\).*\n  no room") as caught:
        prepare(GUARDPASS, setting, checkpoint, tmp_path)
    assert not list((tmp_path / "files").iterdir())
    row = skipped(GUARDPASS, setting, "twin", caught.value)
    assert (row.engine, row.setting, row.subject) == ("guardpass", "any", "twin")
    assert "no room" in row.reason
    assert "raise SystemExit" in row.command


def test_the_fastest_of_a_sweep_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "fake.py"
    path.write_text(_FAKE)
    peer = replace(GUARDPASS, adapter=str(path))
    sweep = ({"delay": 0.2}, {"load": "raise"}, {"delay": 0.001}, {"delay": 0.3})
    setting = Setting("quick", "any", {}, sweep=sweep)
    chosen, tried = best(peer, setting, tmp_path, tmp_path, [_question(1)] * 4, threads=1)
    assert (chosen.name, chosen.sweep) == ("quick, delay 0.001", ({"delay": 0.001},))
    assert [each.options for each in tried] == list(sweep)
    assert [each.ms is None for each in tried] == [False, True, False, False]
    assert "no such model" in (tried[1].error or "")
    assert best(peer, chosen, tmp_path, tmp_path, [_question(1)], threads=1) == (chosen, ())
    broken = replace(setting, sweep=({"load": "raise"}, {"load": "die"}))
    with pytest.raises(PeerError, match="it ended"):
        best(peer, broken, tmp_path, tmp_path, [_question(1)], threads=1)


def test_every_peer_is_complete() -> None:
    assert len({peer.name for peer in PEERS}) == len(PEERS)
    for peer in PEERS:
        assert peer.script.is_file()
        assert peer.settings
        assert len({setting.name for setting in peer.settings}) == len(peer.settings)
        assert bool(peer.steps) != bool(peer.needs)
        for name in (part for setting in peer.settings if setting.files for part in setting.files.command):
            if name.startswith("{scripts}"):
                assert (peer.script.parents[1] / "converters" / Path(name).name).is_file()
    with pytest.raises(InputError, match="unknown peer 'vlm', expected one of: transformers, "):
        find("vlm")


def test_a_peer_that_is_not_set_up_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(PeerMissing, match="run `guardpass bench setup-peer openvino`") as caught:
        python_of(find("openvino"), tmp_path)
    assert isinstance(caught.value, MissingDependency)
    assert skipped(find("openvino"), find("openvino").settings[0], "twin", caught.value).command == caught.value.command
    absent = replace(find("llama.cpp"), needs={"no_such_module": "guardpass[gguf]"})
    with pytest.raises(PeerMissing, match=r"pip install 'guardpass\[gguf\]'"):
        python_of(absent, tmp_path)
    with pytest.raises(InputError, match=r"guardpass's own environment; install guardpass\[gguf\] there"):
        setup_peer("llama.cpp", tmp_path)


def test_setting_up_a_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline: pip's own steps fail, then nothing is left to do."""
    from guardpass.bench.peers import environments

    broken = Peer("own", "any.py", (), steps=(("install", "--no-index", "no-such-package-of-guardpass"),))
    monkeypatch.setattr(environments, "find", lambda _name: broken)
    with pytest.raises(PeerError, match=r"(?s)own cannot be installed.*No matching distribution") as caught:
        setup_peer("own", tmp_path)
    assert "--no-index no-such-package-of-guardpass" in caught.value.command
    with pytest.raises(PeerMissing):
        python_of(broken, tmp_path)
    fine = replace(broken, steps=(("list",),))
    monkeypatch.setattr(environments, "find", lambda _name: fine)
    told: list[str] = []
    python = setup_peer("own", tmp_path, progress=told.append)
    assert len(told) == 1
    assert python_of(fine, tmp_path) == python == setup_peer("own", tmp_path, progress=told.append)
    assert len(told) == 1
    assert subprocess.run([python, "-c", "import sys; assert sys.prefix != sys.base_prefix"], check=True)
    with pytest.raises(PeerMissing, match="of these versions"):
        python_of(broken, tmp_path)


@pytest.mark.parametrize("name", ["kanana-safeguard-8b", "kanana-safeguard-prompt-2.1b"])
def test_w8a8_is_the_checkpoint_to_half_a_step(name: str, tmp_path: Path) -> None:
    write_twin(tiny(find_twin(name)), tmp_path / "twin")
    (tmp_path / "out").mkdir()
    write_w8a8(tmp_path / "twin", tmp_path / "out")
    source, found = Checkpoint(tmp_path / "twin"), load_file(tmp_path / "out" / "model.safetensors")
    linear = 0
    for key, tensor in source.tensors.items():
        weights = tensor.read()
        if key.endswith("_proj.weight"):
            linear += 1
            scales = found.pop(f"{key}_scale")
            assert found[key].dtype == np.int8
            assert scales.shape == (len(weights), 1)
            assert (np.abs(found[key]).max(axis=1) == 127).all()
            assert (np.abs(found.pop(key) * scales - weights) <= scales * 0.501).all()
        else:
            np.testing.assert_array_equal(found.pop(key).astype(np.float32), weights)
    assert not found
    assert linear == 7 * source.config["num_hidden_layers"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    scheme = config.pop("quantization_config")
    assert config == source.config
    assert scheme["ignore"] == ["lm_head"]
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_a_channel_of_zeros_stays_zero() -> None:
    whole, scales = quantized(np.array([[0, 0], [1, -2]], np.float32))
    assert whole.tolist() == [[0, 0], [64, -127]]
    assert np.isfinite(scales).all()
