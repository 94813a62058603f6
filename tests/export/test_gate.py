"""The gate: its reference against transformers, its figures against Guard.check, and broken guards that it stops."""

import contextlib
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from guardpass import Guard
from guardpass.bench.demo.run import CHECKPOINT
from guardpass.bench.reference import load_reference
from guardpass.bench.twins import find, tiny, write_twin
from guardpass.errors import CheckpointError, GateError, InputError
from guardpass.export import export_guard
from guardpass.export.checkpoint.files import Array
from guardpass.export.choices import EngineChoice
from guardpass.export.decoder import ops
from guardpass.export.decoder.rotation import Basis
from guardpass.export.gate import run as gate_run
from guardpass.export.gate.compare import Case as Judged
from guardpass.export.gate.texts import Texts, built_in
from guardpass.export.to_onnx.graph import Graph
from guardpass.format.integrity import open_guard
from guardpass.format.manifest import Gate, Manifest

from ..support.helpers import files
from ..support.published import CASES
from ..support.published import Case as Published

_NAMES = ("kanana-safeguard-8b", "wildguard-7b", "shieldgemma-2b", "qwen3guard-gen-0.6b")


@pytest.mark.parametrize("case", [case for case in CASES if case.twin in _NAMES], ids=lambda case: case.twin)
def test_the_reference_is_transformers(case: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every slot of every text: scores of the walk are the logits behind the whole prompt up to that slot."""
    write_twin(tiny(find(case.twin)), tmp_path / "twin")
    manifests: list[Manifest] = []
    seen: list[tuple[list[Judged], list[Array]]] = []
    planned = gate_run.cases

    def cases(texts: Texts, manifest: Manifest, directory: Path, most: int) -> list[Judged]:
        manifests.append(manifest)
        return planned(texts, manifest, directory, most)

    monkeypatch.setattr(gate_run, "cases", cases)
    monkeypatch.setattr(gate_run, "judge", lambda tried, reference, *_: seen.append((tried, reference)))
    with contextlib.suppress(CheckpointError):  # no gate comes of it
        export_guard(tmp_path / "twin", tmp_path / "guard", family=case.family, date=case.date, quant="int4")
    ((tried, reference),), manifest = seen, manifests[0]
    model = load_reference(tmp_path / "twin", torch.float32)
    assert {each.mode for each in tried} == set(manifest.modes)
    worst = largest = 0.0
    for each, scores in list(zip(tried, reference, strict=True))[:: len(tried) // 12]:
        request = each.request
        chain = [manifest.prefix.tokens[column] for column in request.prefix_columns]
        for slot, row in enumerate(request.slots[0]):
            columns = np.flatnonzero(request.mask[0, 0, row, request.prefix_len :])
            ids = torch.tensor([chain + request.tokens[0, columns].tolist()])
            with torch.no_grad():
                logits = model(ids).logits[0, -1].numpy()[list(manifest.columns)]
            worst = max(worst, float(np.abs(logits - scores[slot]).max()))
            largest = max(largest, float(np.abs(logits).max()))
    assert worst < 2e-4 * max(1.0, largest)


@pytest.mark.parametrize(("engine", "quant"), [("onnx", "int8"), ("onnx", "int4"), ("llamacpp", "q8_0")])
def test_what_it_says_is_what_checks_give(engine: EngineChoice, quant: str, tmp_path: Path) -> None:
    checkpoint = CHECKPOINT
    if engine == "llamacpp":  # llama.cpp has no name for the demo's way of splitting text
        checkpoint = tmp_path / "twin"
        write_twin(tiny(find("kanana-safeguard-8b")), checkpoint)
    texts = built_in("gate").items[::4]
    given = _lines(tmp_path / "texts.jsonl", *({"text": each.text, "response": each.response} for each in texts))
    assert export_guard(checkpoint, tmp_path / "fp32", quant="fp32").ungated == "unquantized"
    reference = Guard.load(tmp_path / "fp32", threads=1)
    manifest = export_guard(
        checkpoint, tmp_path / "guard", engine=engine, quant=quant, gate_texts=given, max_flip_rate=1
    )
    gate = manifest.gate
    assert gate
    assert manifest.ungated is None
    assert open_guard(tmp_path / "guard") == manifest
    guard = Guard.load(tmp_path / "guard", threads=1)
    before, after = ([each.check(text.text, text.response) for text in texts] for each in (reference, guard))
    pairs = list(zip(before, after, strict=True))
    flips = [(a.margin, b.margin) for a, b in pairs if a.safe != b.safe]
    assert gate.texts == len(pairs) == 80
    assert gate.agreement == pytest.approx(1 - len(flips) / len(pairs))
    assert [(flip.reference, flip.found) for flip in gate.flips] == pytest.approx(np.array(flips), abs=1e-3)
    changes = [abs(a.score - b.score) for a, b in pairs]
    assert gate.mean_score_change == pytest.approx(np.mean(changes), abs=1e-4)
    assert gate.worst_score_change == pytest.approx(max(changes), abs=1e-3)
    # Both verdicts occur, so that it says something.
    assert engine == "llamacpp" or 0.2 < np.mean([verdict.safe for verdict in before]) < 0.8


@pytest.mark.parametrize("fault", ["scales", "rotation"])
def test_a_broken_guard_does_not_pass(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault == "scales":  # keys and values of the first layer have each other's
        weight, layer = Graph.weight, "model.layers.0.self_attn"
        names = (f"{layer}.k_proj.scale", f"{layer}.v_proj.scale")
        held: dict[str, Array] = {}
        monkeypatch.setattr(Graph, "weight", lambda graph, key, value: weight(graph, key, held.setdefault(key, value)))
        export_guard(CHECKPOINT, tmp_path / "good", gate=False)
        swapped = dict(zip(names, (held[name] for name in reversed(names)), strict=True))
        monkeypatch.setattr(Graph, "weight", lambda graph, key, value: weight(graph, key, swapped.get(key, value)))
    else:  # the weights are rotated, and the activations are not
        monkeypatch.setattr(ops, "rotation", lambda size: np.eye(size, dtype=np.float32))
    with pytest.raises(GateError, match=r"judges \d+ of 320 texts otherwise than the checkpoint .* --max-flip-rate"):
        export_guard(CHECKPOINT, tmp_path / "guard")
    assert not any("guard" in name for name in files(tmp_path))
    assert export_guard(CHECKPOINT, tmp_path / "guard", gate=False).ungated == "asked"


def _lines(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def test_texts_of_ones_own(tmp_path: Path) -> None:
    """Counts, both modes, and nothing of the texts but their hashes."""
    given = _lines(
        tmp_path / "mine.jsonl", {"text": "오늘 뭐 먹지? zebra"}, {"text": "hi", "response": "quagga", "id": 7}
    )
    gate = export_guard(CHECKPOINT, tmp_path / "guard", gate_texts=given, max_flip_rate=1).gate
    assert isinstance(gate, Gate)
    assert (gate.texts, gate.source, gate.max_flip_rate) == (2, "mine.jsonl", 1.0)
    assert gate.sha256 == hashlib.sha256(given.read_bytes()).hexdigest()
    written = (tmp_path / "guard" / "guard.json").read_text()
    assert "zebra" not in written
    assert "quagga" not in written


def test_flips_are_named_by_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Basis, "read", lambda _self, weights: weights)
    gate = export_guard(CHECKPOINT, tmp_path / "guard", max_flip_rate=1).gate
    assert gate
    assert len(gate.flips) == round((1 - gate.agreement) * gate.texts) > 30
    known = {text.sha256 for text in built_in("gate").items}
    assert {flip.sha256 for flip in gate.flips} <= known
    assert all((flip.reference > 0) != (flip.found > 0) for flip in gate.flips)
    first = built_in("gate").items[0]
    assert first.sha256 == hashlib.sha256(f"{first.text}\0{first.response}".encode()).hexdigest()


_BAD: list[tuple[bytes, str]] = [
    (b"{", r"mine.jsonl line 1: the line is not JSON in UTF-8"),
    (b'{"text": "a"}\n\n{"txt": "b"}', r"mine.jsonl line 3: the line has unknown keys"),
    (b'{"response": "b"}', 'mine.jsonl line 1: the line has no "text"'),
    (b'{"text": 5}', "mine.jsonl line 1: text is int, expected str"),
    (b'{"text": "\\ud800"}', "mine.jsonl line 1: text has a lone surrogate"),
    (b'{"text": "a", "response": 5}', "mine.jsonl line 1: response is int"),
    (b"", "mine.jsonl: no text fits the modes"),
    (json.dumps({"text": "word " * 9000}).encode(), "mine.jsonl line 1: the text takes .* tokens"),
    (
        b"\n".join([json.dumps({"text": "안녕 세상 " * 150}).encode()] * 200),
        "the first .* texts take .* expected at most 32768 in all",
    ),
]


@pytest.mark.parametrize(("data", "says"), _BAD, ids=lambda value: f"{value!r:.30}")
def test_bad_texts(data: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_bytes(data)
    with pytest.raises(InputError, match=says):
        export_guard(CHECKPOINT, tmp_path / "guard", gate_texts=tmp_path / "mine.jsonl")
    assert files(tmp_path) == ["mine.jsonl"]


def test_what_a_file_may_be_called(tmp_path: Path) -> None:
    """Nobody's file passes for the built-in texts: all of it is judged, and guard.json says so."""
    given = tmp_path / "built-in"
    _lines(given, {"text": "hi"}, {"text": "word " * 9000})
    with pytest.raises(InputError, match="built-in line 2: the text takes"):
        export_guard(CHECKPOINT, tmp_path / "guard", gate_texts=given)
    gate = export_guard(CHECKPOINT, tmp_path / "guard", gate_texts=_lines(given, {"text": "hi"}), max_flip_rate=1).gate
    assert gate
    assert (gate.texts, gate.source) == (1, "./built-in")
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jsonl"))
    gate = export_guard(CHECKPOINT, tmp_path / "odd", gate_texts=_lines(odd, {"text": "hi"}), max_flip_rate=1).gate
    assert gate
    assert gate.source == "?.jsonl"


def test_bad_options(tmp_path: Path) -> None:
    given = _lines(tmp_path / "mine.jsonl", {"text": "a"})
    for options, says in [
        ({"max_flip_rate": 1.5}, "max_flip_rate is 1.5, expected a share from 0 to 1"),
        ({"max_flip_rate": "0.1"}, "max_flip_rate is '0.1', expected a share"),
        ({"max_flip_rate": 0.1, "gate": False}, "max_flip_rate is 0.1, but the gate is switched off"),
        ({"max_flip_rate": float("nan")}, "expected a share from 0 to 1"),
        ({"gate_texts": tmp_path / "absent"}, "cannot read .*absent: No such file"),
        ({"gate_texts": given, "gate": False}, "gate_texts is .*mine.jsonl, but the gate is switched off"),
        ({"gate_texts": given, "quant": "fp32"}, "gate_texts is .*mine.jsonl, but the gate does not run on fp32"),
    ]:
        with pytest.raises(InputError, match=says):
            export_guard(CHECKPOINT, tmp_path / "guard", **options)  # type: ignore[arg-type]
    assert files(tmp_path) == ["mine.jsonl"]


def test_built_in_texts() -> None:
    """As many as promised, Korean and English, none twice, and none that also corrects the weights."""
    gate, calibration = (built_in(name).items for name in ("gate", "calibration"))
    assert (len(gate), len(calibration)) == (320, 64)
    assert len({(each.text, each.response) for each in (*gate, *calibration)}) == 384
    korean = sum(any("가" <= letter <= "힣" for letter in each.text) for each in gate)
    assert 140 <= korean <= 180
    assert 80 <= sum(each.response is not None for each in gate) <= 160
