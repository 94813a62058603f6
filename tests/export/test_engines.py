"""Which engine an export is for: the options that say so, and what `auto` comes to."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest

from guardpass import InputError, MissingDependency
from guardpass.export import export_guard, targets
from guardpass.export.choices import EngineChoice, QuantChoice
from guardpass.export.targets import choose
from guardpass.export.to_gguf.quantize import QUANTS as gguf_quants
from guardpass.format.engines import ENGINES
from guardpass.format.manifest import Engine, EngineName, Quant


def _kernels(monkeypatch: pytest.MonkeyPatch, level: str | None) -> None:
    """Installed at this level, or not at all."""
    monkeypatch.setitem(sys.modules, "guardpass_kernels", level and SimpleNamespace(level=lambda: level, __spec__=""))


@pytest.mark.parametrize(
    ("asked", "quant", "expected"),
    [
        ("onnx", None, ("onnx", "int8")),
        ("onnx", "fp32", ("onnx", "fp32")),
        ("native", None, ("native", "int8")),
        ("native", "int4", ("native", "int4")),
        ("llamacpp", None, ("llamacpp", "q8_0")),
        ("gguf", "q4_0", ("llamacpp", "q4_0")),
    ],
)
def test_an_engine_and_its_precision(asked: str, quant: str | None, expected: tuple[str, str]) -> None:
    assert choose(asked, quant, "own") == Engine(*expected, "cpu")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("level", "quant", "expected"),
    [
        ("avx512_vnni", None, ("native", "int8")),
        ("avx2", "int4", ("native", "int4")),
        ("avx2", "fp32", ("onnx", "fp32")),  # which the kernels do not have
        ("portable", None, ("onnx", "int8")),
        (None, None, ("onnx", "int8")),
    ],
)
def test_auto_is_native_where_the_kernels_fit(
    level: str | None, quant: str | None, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _kernels(monkeypatch, level)
    assert choose("auto", quant, "own") == Engine(*expected, "cpu")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("tvm", None, "own"), "engine is 'tvm', expected one of: onnx, native, llamacpp, gguf, auto"),
        (("onnx", None, "magic"), "via is 'magic', expected one of: own, optimum"),
        (("native", None, "optimum"), "engine is 'native' and quant 'fp32', expected onnx and fp32"),
        (("onnx", "int8", "optimum"), "engine is 'onnx' and quant 'int8', expected onnx and fp32"),
    ],
)
def test_what_no_engine_can_is_refused(options: tuple[str, str | None, str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        choose(*options)


def test_the_command_line_offers_what_the_targets_have() -> None:
    targeted = {quant for target in targets.TARGETS.values() for quant in target.quants}
    assert set(get_args(QuantChoice)) == targeted == {*get_args(Quant)} - {"other"}
    assert {*get_args(EngineChoice)} == {*get_args(EngineName), "gguf", "auto"}


def test_every_precision_of_the_table_can_be_written() -> None:
    for target in targets.TARGETS.values():
        for quant in target.quants:
            target.writer(quant)
        assert ENGINES[target.engine].default[target.device] in target.quants
    assert set(gguf_quants) == {*ENGINES["llamacpp"].quants["cpu"]}


@pytest.mark.parametrize(
    ("engine", "quant", "says"),
    [
        ("onnx", "q8_0", r"expected one of: fp32, int8, int4 \(of engine onnx\)"),
        ("native", "fp32", r"expected one of: int8, int4 \(of engine native\)"),
        ("gguf", "int8", r"expected one of: f32, .* \(of engine llamacpp\)"),
    ],
)
def test_a_precision_that_the_engine_lacks_is_refused(
    engine: EngineChoice, quant: str, says: str, plain_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"quant is '{quant}', {says}"):
        export_guard(plain_checkpoint, tmp_path / "guard", engine=engine, quant=quant)
    assert not (tmp_path / "guard").exists()


@pytest.mark.parametrize(("engine", "install"), [("onnx", r"guardpass\[cpu\]"), ("native", r"\./kernels")])
def test_a_gate_without_its_engine_says_what_to_install(
    engine: EngineChoice, install: str, plain_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "find_spec", lambda _name: None)
    with pytest.raises(MissingDependency, match=f"the gate runs the guard, .* install {install}"):
        export_guard(plain_checkpoint, tmp_path / "guard", engine=engine)
    assert export_guard(plain_checkpoint, tmp_path / "guard", engine=engine, gate=False).ungated == "asked"
