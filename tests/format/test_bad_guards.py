"""Bad guards: nothing is opened that guard.json does not vouch for, and no verdict is made of noise."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from guardpass import EngineError, Guard, GuardError
from guardpass.format.integrity import open_guard

from ..support.broken import SIREN, copied, refuse_to_load, seal

_FILES = ["model.onnx", "model.onnx.data", "tokenizer.json"]


copy = pytest.fixture(copied)


@pytest.mark.parametrize("name", _FILES)
def test_any_byte_of_any_file(copy: Path, name: str) -> None:
    data, rng = (copy / name).read_bytes(), random.Random(1)
    for place in [0, len(data) - 1, *rng.sample(range(len(data)), 15)]:
        (copy / name).write_bytes(data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :])
        refuse_to_load(copy, f"{name} has sha256")
    for changed in (data[:-1], data + b"\0", b""):
        (copy / name).write_bytes(changed)
        refuse_to_load(copy, f"{name} has {len(changed)} bytes")


def _link(target: Callable[[Path], Path]) -> Callable[[Path], None]:
    def change(guard: Path) -> None:
        shutil.copy(guard / "model.onnx", guard.parent / "outside")
        (guard / "model.onnx").rename(guard.parent / "inside")
        (guard / "model.onnx").symlink_to(target(guard))

    return change


_DIRECTORIES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no manifest": (lambda g: (g / "guard.json").unlink(), "no guard.json.*guardpass export"),
    "no model": (lambda g: (g / "model.onnx").unlink(), r"missing \['model.onnx'\]"),
    "no weights": (lambda g: (g / "model.onnx.data").unlink(), r"missing \['model.onnx.data'\]"),
    "no tokenizer": (lambda g: (g / "tokenizer.json").unlink(), r"missing \['tokenizer.json'\]"),
    "an extra file": (lambda g: (g / "libcustom.so").write_text(""), r"not listed \['libcustom.so'\]"),
    "a hidden extra file": (lambda g: (g / ".x").write_text(""), r"not listed \['.x'\]"),
    "an extra file without a name in Unicode": (lambda g: Path(os.fsdecode(bytes(g) + b"/\xff")).touch(), "not listed"),
    "a link out of it": (_link(lambda g: g.parent / "outside"), "model.onnx in .* is a link"),
    "a link within it": (_link(lambda _: Path("tokenizer.json")), "model.onnx in .* is a link"),
    "a link to nothing": (_link(lambda _: Path("nowhere")), "model.onnx in .* is a link"),
    "an extra link": (lambda g: (g / "x").symlink_to("/etc/passwd"), "x in .* is a link"),
    "a linked manifest": (
        lambda g: shutil.move(g / "guard.json", g.parent) and (g / "guard.json").symlink_to(g.parent / "guard.json"),
        "guard.json in .* is a link",
    ),
    "a folder": (lambda g: (g / "sub").mkdir(), "sub in .* is a link, folder or device"),
    "a pipe": (lambda g: os.mkfifo(g / "pipe"), "pipe in .* is a link, folder or device"),
    "nothing": (lambda g: shutil.rmtree(g), "cannot open guard"),
    "a file": (lambda g: (shutil.rmtree(g), g.write_text("")), "cannot open guard"),
    "an empty folder": (lambda g: (shutil.rmtree(g), g.mkdir()), "no guard.json"),
}


@pytest.mark.parametrize("case", _DIRECTORIES)
def test_bad_directories(copy: Path, case: str) -> None:
    change, says = _DIRECTORIES[case]
    change(copy)
    refuse_to_load(copy, says)


def test_a_path_that_cannot_be() -> None:
    refuse_to_load(Path("a\0b"), "cannot open guard")


@pytest.mark.parametrize(
    ("name", "data", "error", "says"),
    [
        ("tokenizer.json", b"{}", GuardError, "tokenizer.json is not a tokenizer"),
        ("tokenizer.json", b"[" * 100_000, GuardError, "tokenizer.json is not a tokenizer"),
        ("tokenizer.json", b"\xff", GuardError, "tokenizer.json is not a tokenizer"),
        ("model.onnx", b"x", EngineError, "cannot open model.onnx"),
        ("model.onnx.data", b"x", EngineError, "cannot open model.onnx"),
    ],
)
def test_sealed_files_that_are_no_model(copy: Path, name: str, data: bytes, error: type[Exception], says: str) -> None:
    (copy / name).write_bytes(data)
    seal(copy)
    refuse_to_load(copy, says, error)


def test_a_tokenizer_that_knows_control_tokens(copy: Path, plain_checkpoint: Path) -> None:
    """The checkpoint's own tokenizer would let text become a verdict."""
    shutil.copy(plain_checkpoint / "tokenizer.json", copy)
    seal(copy)
    refuse_to_load(copy, "adds control tokens, so text could become one")


def test_a_tokenizer_that_cuts_text_cuts_nothing(copy: Path, guard: Guard) -> None:
    spec = json.loads((copy / "tokenizer.json").read_text())
    spec["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    spec["padding"] = {
        "strategy": {"Fixed": 99},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "!",
    }
    (copy / "tokenizer.json").write_text(json.dumps(spec))
    seal(copy)
    text = "one two three four five six"
    assert Guard.load(copy).check(text).score == guard.check(text).score


def test_large_files_may_go_unhashed_and_no_others(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guardpass.format.integrity._ALWAYS_HASHED", 1 << 16)
    data = bytearray((copy / "model.onnx.data").read_bytes())
    data[-1] ^= 1
    (copy / "model.onnx.data").write_bytes(data)
    open_guard(copy, verify=False)
    with pytest.raises(GuardError, match=r"model.onnx.data has sha256"):
        open_guard(copy)
    (copy / "tokenizer.json").write_bytes((copy / "tokenizer.json").read_bytes().replace(b"a", b"b", 1))
    with pytest.raises(GuardError, match=r"tokenizer.json has sha256"):
        open_guard(copy, verify=False)


@pytest.mark.parametrize("place", ["../elsewhere", "/etc/hostname"])
def test_weights_outside_the_guard_are_not_opened(copy: Path, place: str) -> None:
    """A sealed model that names another file; ONNX Runtime's own wall, which ours rests on."""
    shutil.copy(copy / "model.onnx.data", copy.parent / "elsewhere")
    model = onnx.load(copy / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = place if entry.key == "location" else entry.value
    (copy / "model.onnx").write_bytes(model.SerializeToString())
    seal(copy)
    with pytest.raises(EngineError, match=r"cannot open model\.onnx"):
        Guard.load(copy)


@pytest.mark.parametrize("quant", ["fp32", "int8", "int4"])
def test_scores_that_are_not_finite_are_no_verdict(exported: Callable[..., Path], tmp_path: Path, quant: str) -> None:
    """A guard, vouched for by its manifest, whose final norm overflows. Export refuses to make one."""
    copy = copied(exported(SIREN, quant), tmp_path)
    model = onnx.load(copy / "model.onnx", load_external_data=False)
    *_, last = (node for node in model.graph.node if node.op_type == "RMSNormalization")
    (gain,) = (tensor for tensor in model.graph.initializer if tensor.name == last.input[1])
    gain.CopyFrom(numpy_helper.from_array(np.full(64, 3e38, np.float32), gain.name))
    (copy / "model.onnx").write_bytes(model.SerializeToString())
    seal(copy)
    guard = Guard.load(copy)
    for threshold in (None, 0.5):
        with pytest.raises(EngineError, match="not finite"):
            guard.check("hello", threshold=threshold)
