"""model.packed: files that lie about their sizes, offsets or config are refused before any kernel runs."""

import json
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardpass import Guard
from guardpass.engines.native import NativeEngine
from guardpass.errors import GuardError, GuardpassError
from guardpass.format.integrity import open_guard
from guardpass.format.manifest import Manifest
from guardpass.format.packed import ALIGNMENT, open_tensors, parse

from ..support.twins import PLAIN

Table = dict[str, Any]  # the header as JSON has it


@pytest.fixture(scope="module", params=["int8", "int4"])
def guard_path(request: pytest.FixtureRequest, exported: Callable[..., Path]) -> Path:
    return exported(PLAIN, request.param, engine="native")


def _opened(file: bytes, manifest: Manifest, folder: Path) -> None:
    path = folder / "model.packed"
    path.write_bytes(file)
    NativeEngine(path, manifest, threads=1, max_tokens=100)


def _header(file: bytes) -> Table:
    table: Table = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])
    return table


def _with_header(file: bytes, table: Table) -> bytes:
    """The same data behind another header."""
    text = json.dumps(table).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text + file[8 + int.from_bytes(file[:8], "little") :]


def test_tensors_are_aligned_in_order_and_not_copied(guard_path: Path) -> None:
    path = guard_path / "model.packed"
    header, arrays = open_tensors(path)
    data = path.read_bytes()
    end = header.data
    for name, entry in header.entries.items():
        start = header.data + entry.data_offsets[0]
        assert start % ALIGNMENT == 0
        assert not any(data[end:start])
        end = header.data + entry.data_offsets[1]
        assert arrays[name].tobytes() == data[start:end]
        assert arrays[name].ctypes.data % ALIGNMENT == 0
        assert not arrays[name].flags.writeable
        assert not arrays[name].flags.owndata
    assert end == len(data)
    assert list(header.entries) == list(arrays)


def _tensor(key: str, change: Callable[[Any], Any], name: str = "model.layers.1.mlp.down_proj.weight") -> Any:
    def apply(table: Table) -> None:
        table[name][key] = change(table[name][key])

    return apply


def _config(key: str, value: str) -> Any:
    return lambda table: table["__metadata__"].update({key: value})


def _renamed(table: Table) -> None:
    items = [("x" if name == "inv_freq" else name, value) for name, value in table.items()]
    table.clear()
    table.update(items)


def _swapped(table: Table) -> None:
    first, second = "model.layers.0.self_attn.q_proj.sum", "model.layers.1.self_attn.q_proj.sum"
    table[first], table[second] = table[second], table[first]


def _requantized(table: Table) -> None:
    config = table["__metadata__"]
    config["quant"] = {"int8": "int4", "int4": "int8"}[config["quant"]]


_LIES: dict[str, tuple[Callable[[Table], Any], str]] = {
    "another dtype": (_tensor("dtype", lambda _: "F32"), "lies at"),
    "an unknown dtype": (_tensor("dtype", lambda _: "I64"), "expected one of"),
    "a longer shape": (_tensor("shape", lambda shape: [*shape, 2]), "lies at"),
    "another shape": (_tensor("shape", lambda shape: shape[::-1]), r"down_proj.weight is \w\d \[.*expected"),
    "a shape of zero": (_tensor("shape", lambda shape: [0, *shape]), "positive sizes"),
    "a negative shape": (_tensor("shape", lambda shape: [-1, *shape[1:]]), "positive sizes"),
    "a shape beyond 64 bits": (_tensor("shape", lambda _: [1 << 39] * 8), "lies at"),
    "no shape": (_tensor("shape", lambda _: []), "positive sizes"),
    "a shape of floats": (_tensor("shape", lambda shape: [float(size) for size in shape]), "expected int"),
    "a tensor moved": (_tensor("data_offsets", lambda at: [at[0] + 64, at[1] + 64]), "lies at"),
    "a tensor below zero": (_tensor("data_offsets", lambda at: [-64, at[1] - at[0] - 64]), "lies at"),
    "offsets as one": (_tensor("data_offsets", lambda at: at[:1]), "lies at"),
    "tensors that overlap": (_swapped, "lies at"),
    "a key too many": (lambda table: table["inv_freq"].update(more=1), "unknown keys"),
    "a tensor renamed": (_renamed, "inv_freq"),
    "a tensor less": (lambda table: table.pop("verdict_head"), "the tensors end at"),
    "no metadata": (lambda table: table.pop("__metadata__"), "__metadata__"),
    "another format": (_config("format", "x"), "guardpass-packed"),
    "another version": (_config("version", "2"), "guardpass-packed"),
    "a config key too many": (_config("more", "1"), "unknown keys"),
    "a config key less": (lambda table: table["__metadata__"].pop("eps"), "missing keys"),
    "another quant": (_config("quant", "int3"), "expected one of"),
    "the other quant": (_requantized, "quant is"),
    "a config that is no JSON": (_config("layers", "two"), "Expecting value"),
    "a count that is text": (_config("layers", '"2"'), "expected int"),
    "layers beyond all tensors": (_config("layers", "16777215"), "expected a count for each"),
    "a layer less": (_config("layers", "1"), "expected a count for each"),
    "no layers": (_config("layers", "0"), "expected a positive count"),
    "another vocabulary": (_config("vocab", "17"), "guard.json has"),
    "another context": (_config("context", "17"), "guard.json has"),
    "another prefix": (_config("prefix", "1"), "guard.json has"),
    "more columns": (_config("columns", "99"), "guard.json has"),
    "another width": (_config("hidden", "128"), "embedding is"),
    "heads that do not divide": (_config("kv_heads", "3"), "expected to divide"),
    "more heads than a task of the kernels takes": (_config("heads", "1024"), "expected at most 64 a key"),
    "odd heads": (_config("head_dim", "3"), "expected to divide"),
    "a wider MLP": (_config("ffn", "4096"), "gate_up"),
    "norms that are not there": (_config("post_norms", "true"), "missing"),
    "head norms that are not there": (_config("head_norms", "true"), "missing"),
    "an eps of zero": (_config("eps", "0.0"), "positive number"),
    "an infinite eps": (_config("eps", "1e999"), "positive number"),
    "an eps that is none": (_config("eps", "NaN"), "expected a number"),
    "a negative softcap": (_config("softcap", "-1.0"), "positive number"),
    "a negative window": (_config("windows", "[-1, 0]"), "expected a count for each"),
    "a rotation of 3": (_config("ffn_block", "3"), "power of two"),
    "a rotation of 0": (_config("residual_block", "0"), "positive count"),
}


@pytest.mark.parametrize("lie", _LIES)
def test_a_header_that_lies_is_refused(lie: str, guard_path: Path, tmp_path: Path) -> None:
    change, expected = _LIES[lie]
    file, manifest = (guard_path / "model.packed").read_bytes(), open_guard(guard_path)
    table = _header(file)
    change(table)
    with pytest.raises(GuardError, match=expected):
        _opened(_with_header(file, table), manifest, tmp_path)


def test_twice_the_same_name_is_refused(guard_path: Path, tmp_path: Path) -> None:
    file = (guard_path / "model.packed").read_bytes()
    text = json.dumps(_header(file)).replace('"inv_freq"', '"verdict_head"')
    text += " " * (-(8 + len(text)) % ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text.encode()
    with pytest.raises(GuardError, match="twice"):
        _opened(header + file[8 + int.from_bytes(file[:8], "little") :], open_guard(guard_path), tmp_path)


@pytest.mark.parametrize("text", [b"[]", b"1", b"{", b"\xff", b'{"__metadata__": 1}', b"[" * 100_000, b'{"a": 1}'])
def test_what_is_no_header_is_refused(text: bytes, guard_path: Path, tmp_path: Path) -> None:
    text = text + b" " * (-(8 + len(text)) % ALIGNMENT)
    with pytest.raises(GuardError, match=r"model\.packed cannot be opened safely"):
        _opened(len(text).to_bytes(8, "little") + text, open_guard(guard_path), tmp_path)


def test_any_end_is_refused(guard_path: Path, tmp_path: Path) -> None:
    """Cut anywhere, or with something behind."""
    file, manifest = (guard_path / "model.packed").read_bytes(), open_guard(guard_path)
    length = int.from_bytes(file[:8], "little")
    draw = random.Random(0)
    for end in [0, 1, 7, 8, 9, length, length + 8, len(file) - 1, *(draw.randrange(len(file)) for _ in range(50))]:
        with pytest.raises(GuardError):
            _opened(file[:end], manifest, tmp_path)
    with pytest.raises(GuardError, match="the tensors end at byte"):
        _opened(file + b"\0", manifest, tmp_path)


@given(data=st.data())
def test_any_bytes_of_a_header_are_safe(guard_path: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Whatever stands there, it is refused, or all that it names lies inside the file."""
    file, manifest = bytearray((guard_path / "model.packed").read_bytes()), open_guard(guard_path)
    length = 8 + int.from_bytes(file[:8], "little")
    for place in data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=4)):
        file[place] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(list(b'0123456789-.eE"[]{},: '))))
    try:
        header = parse(memoryview(bytes(file)))
    except ValueError:
        with pytest.raises(GuardError):
            _opened(bytes(file), manifest, tmp_path)
        return
    ends = [entry.data_offsets for entry in header.entries.values()]
    assert all(0 <= start < end <= len(file) - header.data for start, end in ends)
    try:
        _opened(bytes(file), manifest, tmp_path)
    except GuardpassError:
        return


_OTHERS = st.one_of(st.none(), st.booleans(), st.text(max_size=3), st.lists(st.integers()))
_NUMBERS = st.one_of(st.integers(-(1 << 70), 1 << 70), st.floats(), _OTHERS)


@given(data=st.data())
def test_any_size_or_offset_but_the_right_one_is_refused(guard_path: Path, tmp_path: Path, data: st.DataObject) -> None:
    file, manifest = (guard_path / "model.packed").read_bytes(), open_guard(guard_path)
    table = _header(file)
    name = data.draw(st.sampled_from(sorted(table.keys() - {"__metadata__"})))
    key = data.draw(st.sampled_from(["shape", "data_offsets"]))
    kept = table[name][key]
    values = list(kept)
    values[data.draw(st.integers(0, len(values) - 1))] = data.draw(_NUMBERS)
    table[name][key] = values
    if values == kept and all(type(value) is int for value in values):
        return
    with pytest.raises(GuardError):
        _opened(_with_header(file, table), manifest, tmp_path)


def test_a_prefix_that_is_not_the_guards_is_refused(guard_path: Path, tmp_path: Path) -> None:
    manifest = open_guard(guard_path)
    parents = (-1, *manifest.prefix.parents[1:-1], -1)
    with pytest.raises(GuardError, match=r"prefix.positions are not"):
        _opened(
            (guard_path / "model.packed").read_bytes(),
            replace(manifest, prefix=replace(manifest.prefix, parents=parents)),
            tmp_path,
        )


def test_a_file_that_was_changed_is_refused(guard_path: Path, tmp_path: Path) -> None:
    """By its hash, as any file of a guard."""
    for path in guard_path.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    file = bytearray((tmp_path / "model.packed").read_bytes())
    file[-1] ^= 1
    (tmp_path / "model.packed").write_bytes(file)
    with pytest.raises(GuardError, match=r"model\.packed has sha256"):
        Guard.load(tmp_path)


def test_a_missing_library_is_an_error_that_says_what_to_do(guard_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "guardpass_kernels", None)
    with pytest.raises(GuardpassError, match=r"guardpass-kernels is not installed .*pip install ./kernels"):
        Guard.load(guard_path)


def test_bfloat16_keeps_its_bits(guard_path: Path, plain_checkpoint: Path) -> None:
    import torch
    from safetensors.torch import load_file

    (shard,) = [
        path for path in plain_checkpoint.glob("*.safetensors") if "model.embed_tokens.weight" in load_file(path)
    ]
    expected = load_file(shard)["model.embed_tokens.weight"].view(torch.uint16).numpy()
    _, arrays = open_tensors(guard_path / "model.packed")
    np.testing.assert_array_equal(arrays["embedding"], expected)
