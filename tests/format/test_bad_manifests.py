"""Bad manifests: guard.json is whole, of this schema, and makes sense, or nothing else is opened."""

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guardpass import GuardError
from guardpass.format.manifest import Choice, File, Flip, Gate, Manifest, Piece, Threshold
from guardpass.format.manifest_io import dumps, loads

from ..support.broken import copied, refuse_to_load

copy = pytest.fixture(copied)


def test_any_byte_of_the_manifest(two_sided: Path) -> None:
    """One random bit of every byte, and every truncation at a random place."""
    data, rng = (two_sided / "guard.json").read_bytes(), random.Random(0)
    loads(data)
    for place in range(len(data)):
        with pytest.raises(GuardError):
            loads(data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :])
    for size in [0, 1, *rng.sample(range(len(data)), 50)]:
        with pytest.raises(GuardError):
            loads(data[:size])
    with pytest.raises(GuardError):
        loads(data + b" ")


_BYTES: list[tuple[bytes, str]] = [
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b'{"a":' * 100_000, "not JSON"),
    (b"\xff\xfe", "not JSON"),
    (b'{"schema": 4' + b"0" * 5000 + b"}", "not JSON"),
    (b"[]", "schema None"),
    (b"1", "schema None"),
    (b"{}", "schema None"),
    *(
        (f'{{"schema": {value}}}'.encode(), f"has schema {shown}, this guardpass reads schema 4")
        for value, shown in [("0", "0"), ("1", "1"), ("true", "True"), ('"1"', "'1'"), ("null", "None"), ("[1]", ".1.")]
    ),
    (b'{"schema": 4}', "was altered"),
    (b'{\n "sha256": "' + b"0" * 64 + b'", "schema": 4}', "was altered"),
]


@pytest.mark.parametrize(("data", "says"), _BYTES, ids=lambda value: f"{value!r:.30}")
def test_bad_manifests(copy: Path, data: bytes, says: str) -> None:
    (copy / "guard.json").write_bytes(data)
    refuse_to_load(copy, says)


def _mode(**changes: Any) -> Callable[[Manifest], Manifest]:
    return lambda m: replace(m, modes={**m.modes, "prompt": replace(m.modes["prompt"], **changes)})


def _tree(**changes: Any) -> Callable[[Manifest], Manifest]:
    return lambda m: _mode(tree=replace(m.modes["prompt"].tree, **changes))(m)


def _slot(**changes: Any) -> Callable[[Manifest], Manifest]:
    return lambda m: _tree(slots=(replace(m.modes["prompt"].tree.slots[0], **changes),))(m)


def _follower(*choices: Choice, field: str = "verdict") -> Callable[[Manifest], Manifest]:
    """A second slot at the same node, after the given choices of the first."""

    def change(m: Manifest) -> Manifest:
        (slot,) = m.modes["prompt"].tree.slots
        kept = slot.choices if not choices else (slot.choices[0], *choices)
        return _tree(slots=(replace(slot, choices=kept), replace(slot, field=field)))(m)

    return change


def _labels(**changes: Any) -> Callable[[Manifest], Manifest]:
    return lambda m: replace(m, labels=tuple(replace(label, **changes) for label in m.labels))


def _prefix(**changes: Any) -> Callable[[Manifest], Manifest]:
    return lambda m: replace(m, prefix=replace(m.prefix, **changes))


def _file(name: str, size: Any = 1, digest: str = "0" * 64) -> Callable[[Manifest], Manifest]:
    return lambda m: replace(m, files={**m.files, name: File(digest, size)})


def _gate(**changes: Any) -> Callable[[Manifest], Manifest]:
    good = Gate(9, "built-in", "0" * 64, 1.0, (), 0.0, 0.0, 0.0, 0.02)
    return lambda m: replace(m, gate=replace(good, **changes), ungated=None)


def _threshold(field: str = "verdict", **changes: Any) -> Callable[[Manifest], Manifest]:
    return _mode(thresholds={field: replace(Threshold(0.5, "recall=0.9", 9, "0" * 64), **changes)})


_HUGE = 1 << 70
_SAFE, _UNSAFE = Choice(0, 0, None), Choice(1, 1, None)
_SEALED: list[tuple[Callable[[Manifest], Any], str]] = [
    (_slot(node=99), r"slots\[0\].node: expected numbers from 0 to .*, found 99"),
    (_slot(node=-1), "node.*found -1"),
    (_slot(node=_HUGE), "node: expected numbers"),
    (_slot(choices=(_SAFE, Choice(8, 1, None))), "column: expected numbers from 0 to 7, found 8"),
    (_slot(choices=(_SAFE, Choice(-1, 1, None))), "column: expected numbers from 0 to 7, found -1"),
    (_slot(choices=(_SAFE, Choice(1, 8, None))), "label: expected numbers from 0 to 7, found 8"),
    (_slot(choices=(_SAFE, Choice(0, 1, None))), "expected two or more, each of its own column"),
    (_slot(choices=()), "expected two or more, each of its own column"),
    (_slot(choices=(_SAFE,)), "expected two or more"),
    (_slot(choices=(_UNSAFE, Choice(2, 2, None))), "choices: expected at least one safe and one unsafe"),
    (_slot(choices=(_SAFE, Choice(1, None, None))), "a choice without a label leads to no slot"),
    (_slot(choices=(_SAFE, Choice(1, 1, 0))), "next: expected a later slot, found 0"),
    (_slot(choices=(_SAFE, Choice(1, 1, 9))), "next: expected a later slot, found 9"),
    (_slot(choices=(_SAFE, Choice(1, 1, True))), "expected int, found bool"),
    (_slot(choices=(_SAFE, Choice(1, 1, None, (4096,)))), "last: expected numbers from 0 to 2047, found 4096"),
    (_slot(choices=(_SAFE, Choice(1, 1, None, (1, 2)))), "last: expected none where a slot follows, else the chosen"),
    (_slot(field=None), "expected str, found NoneType"),
    (_follower(), "slots: expected each to be a root or to follow one choice"),
    (_follower(Choice(1, 1, 1)), "slot 1 does not stand behind the chosen token"),
    (_follower(Choice(1, None, 1), field="other"), "a choice without a label leads to another field, 'other'"),
    (_tree(slots=(), roots=()), "roots: expected one or more"),
    (_tree(roots=()), "expected each to be a root"),
    (_tree(roots=(1,)), "roots: expected numbers from 0 to 0, found 1"),
    (_tree(roots=(0, 0)), "expected each to be a root or to follow one choice"),
    (_mode(decides=()), "expected every walk to pass one of"),
    (_mode(decides=("poetry",)), "decides: expected fields of the tree, found .'poetry'"),
    (_mode(asked=("poetry",)), "asked: expected some of .'verdict'., found .'poetry'"),
    (_mode(steps=0), "steps: expected a positive count"),
    (_tree(tokens=(1, 2), parents=(1, 0)), "tree.parents: expected 2 parents, each before its child"),
    (_tree(tokens=(1, 2), parents=(-1, 1)), "tree.parents"),
    (_tree(tokens=(1, 2), parents=(-2, 0)), "tree.parents"),
    (_tree(parents=(-1,)), "tree.parents"),
    (_tree(tokens=(), parents=()), "node: expected numbers"),
    (_tree(tokens=(2048,), parents=(-1,)), "tree.tokens: expected numbers from 0 to 2047, found 2048"),
    (_tree(tokens=(1,) * 10_000, parents=(-1,) * 10_000), "tree: expected at most 8192 tokens"),
    (_mode(lead=99), "lead: expected numbers from 0 to .*, found 99"),
    (_mode(lead=-1), "lead.*found -1"),
    (_mode(lead=True), "expected int, found bool"),
    (_mode(lead=1.0), "expected int, found float"),
    (_mode(prefix=(_HUGE,)), "prefix: expected numbers"),
    (_mode(prefix=(1, 0), lead=0), "expected a chain from a root"),
    (_mode(prefix=(0, 0), lead=0), "expected a chain from a root"),
    (_mode(prefix=(0, 2), lead=0), "expected a chain from a root"),
    (_mode(span=()), r"span: expected content \['prompt'\], found \[\]"),
    (_mode(span=(Piece("", "response"),)), "span: expected content"),
    (_mode(span=(Piece("", "prompt"), Piece("", "prompt"))), "span: expected content"),
    (_mode(span=(Piece("lost", "prompt"),)), "span: expected content"),
    (_mode(span=(Piece("", "prompt", "middle"),)), "expected one of .'none', 'left'"),  # type: ignore[arg-type]
    (_prefix(tokens=(_HUGE,) * 99), "prefix.tokens: expected numbers"),
    (_prefix(parents=()), "prefix.parents"),
    (_labels(severity="unsafe"), "expected at least one safe and one unsafe"),
    (_labels(severity="safe"), "expected at least one safe and one unsafe"),
    (_labels(severity="fatal"), "expected one of .'safe', 'controversial', 'unsafe'., found 'fatal'"),
    (lambda m: replace(m, columns=(5,) * 8), "columns: expected distinct token ids"),
    (lambda m: replace(m, columns=(2048,)), "columns: expected numbers from 0 to 2047"),
    (lambda m: replace(m, columns=(-1,)), "columns: expected numbers"),
    (lambda m: replace(m, columns=()), "column: expected numbers"),
    (_labels(name=None), "expected str, found NoneType"),
    (lambda m: replace(m, modes={}), "expected prompt and/or response"),
    (lambda m: replace(m, modes={"poem": m.modes["prompt"]}), "expected prompt and/or response"),
    (lambda m: replace(m, reserved={"x": 2048}), "reserved: expected numbers"),
    (lambda m: replace(m, reserved={"": 5}), "no empty text"),
    (lambda m: replace(m, literals=("",)), "no empty text"),
    (lambda m: replace(m, context=0), "context, vocab: expected positive counts"),
    (lambda m: replace(m, context=_HUGE), "context, vocab: expected positive counts"),
    (lambda m: replace(m, context=10), "leave nothing of a context of 10"),
    (lambda m: replace(m, vocab=_HUGE), "context, vocab: expected positive counts"),
    (lambda m: replace(m, engine=replace(m.engine, name="pickle")), "expected one of .'onnx',"),
    (lambda m: replace(m, schema=2), "has schema 2"),
    (lambda m: replace(m, files={}), r"expected \['model.onnx', 'tokenizer.json'\] among them"),
    *(
        (_file(name), "not a plain file name")
        for name in ("../x", "/etc/passwd", "sub/x", "..", ".", "", ".x", "a\\b", "a\0", "guard.json", "x\n", "가")
    ),
    *((_file("x", size), "out of range|expected int") for size in (0, -1, 1 << 50, _HUGE, True, 1.5)),
    *((_file("x", 1, digest), "out of range") for digest in ("", "0" * 63, "G" * 64, "0" * 64 + "\n")),
    (lambda m: replace(m, ungated=None), "gate, ungated: expected one of them"),
    (lambda m: replace(_gate()(m), ungated="asked"), "gate, ungated: expected one of them"),
    (lambda m: replace(m, ungated="lazy"), "expected one of .'asked'"),
    (_gate(texts=0), "gate: a count or sha256 out of range"),
    (_gate(sha256="0"), "gate: a count or sha256 out of range"),
    (_gate(agreement=1.5), "gate: expected shares from 0 to 1"),
    (_gate(worst_score_change=float("nan")), "gate: expected shares from 0 to 1"),
    (_gate(kl=float("inf")), "gate: expected shares"),
    (_gate(flips=(Flip("0" * 64, "prompt", "verdict", 0.1, float("nan")),)), "gate.flips: expected margins"),
    (_threshold("poetry"), r"thresholds.poetry: expected a field of \['verdict'\]"),
    (_threshold(score=1.5), "thresholds.verdict: expected a field of"),
    (_threshold(score=float("nan")), "thresholds.verdict: expected a field of"),
    (_threshold(texts=0), "thresholds.verdict: texts or sha256"),
    (_file("x"), r"missing \['x'\]"),
]


@pytest.mark.parametrize(("change", "says"), _SEALED, ids=[says for _, says in _SEALED])
def test_a_sealed_manifest_that_contradicts_itself(
    copy: Path, change: Callable[[Manifest], Manifest], says: str
) -> None:
    """Whoever can write the seal can still not make the runtime index out of bounds."""
    (copy / "guard.json").write_bytes(dumps(change(loads((copy / "guard.json").read_bytes()))))
    refuse_to_load(copy, says)


def test_a_sealed_manifest_with_other_keys(copy: Path) -> None:
    original = json.loads((copy / "guard.json").read_bytes())
    for changes, says in [({"trust_remote_code": True}, "unknown keys"), ({"labels": None}, "expected list")]:
        blank = json.dumps({**original, "sha256": "0" * 64, **changes}, indent=1).encode()
        (copy / "guard.json").write_bytes(blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode(), 1))
        refuse_to_load(copy, says)
