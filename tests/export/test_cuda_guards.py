"""`--device cuda`, exported and gated where there is no GPU."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guardpass import Guard
from guardpass.bench.demo.run import CHECKPOINT
from guardpass.describe import gate_line
from guardpass.engines.onnx.cpu import OnnxEngine
from guardpass.export import export_guard
from guardpass.export.gate import engine as trial
from guardpass.export.to_onnx.cuda_emulation import OnCpu
from guardpass.format.manifest import Engine, Manifest
from guardpass.format.manifest_io import loads
from guardpass.format.validate import check

from ..support.engines import engine_of
from ..support.helpers import files, planner, texts

_FILES = ["guard.json", "model.onnx", "model.onnx.data", "tokenizer.json"]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts for the gate."""
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    given = (text for text in texts(40) if text.strip())
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in given), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_gpu", lambda: False)


def test_bf16_is_the_default_and_is_gated_on_the_cpu(short: Path, tmp_path: Path) -> None:
    out = tmp_path / "guard"
    manifest = export_guard(CHECKPOINT, out, device="cuda", gate_texts=short)
    assert manifest.engine == Engine("onnx", "bf16", "cuda")
    assert manifest.gate
    assert manifest.gate.device == "cpu"
    assert 0 < manifest.gate.kl < 1e-3
    assert gate_line(manifest).endswith(" at worst, run on the cpu")
    assert loads((out / "guard.json").read_bytes()) == manifest
    assert files(out) == _FILES
    half = sum(path.stat().st_size for path in out.glob("model.onnx*"))
    export_guard(CHECKPOINT, tmp_path / "whole", device="cuda", quant="fp32")
    assert half < 0.7 * sum(path.stat().st_size for path in (tmp_path / "whole").glob("model.onnx*"))


def test_it_is_gated_on_a_gpu_where_there_is_one(short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    def open_engine(directory: Path, manifest: Manifest, **options: Any) -> OnCpu:
        opened.append(options["device"])
        return OnCpu(directory / "model.onnx", len(manifest.columns))

    monkeypatch.setattr(trial, "_gpu", lambda: True)
    monkeypatch.setattr(trial, "open_engine", open_engine)
    manifest = export_guard(CHECKPOINT, tmp_path / "guard", device="cuda", quant="fp16", gate_texts=short)
    assert manifest.gate
    assert (opened, manifest.gate.device) == (["cuda"], "cuda")
    assert "run on" not in gate_line(manifest)


def test_fp32_for_cuda_scores_as_fp32_for_the_cpu(tmp_path: Path) -> None:
    """The same guard but for the layout of its graph; and fp16 beside it, in ONNX Runtime's own operators."""
    export_guard(CHECKPOINT, tmp_path / "cpu", quant="fp32")
    guard = Guard.load(tmp_path / "cpu", threads=1, normalize="off")
    made = {}
    for quant in ("fp32", "fp16"):
        manifest = export_guard(CHECKPOINT, tmp_path / quant, device="cuda", quant=quant, gate=False)
        assert manifest.ungated == ("unquantized" if quant == "fp32" else "asked")
        made[quant] = OnnxEngine(tmp_path / quant / "model.onnx", manifest, threads=1)
    plans = planner(guard, "prompt")
    for text in texts(20, seed=5):
        request = plans.plan(plans.span({"prompt": text}))
        expected = engine_of(guard).run(request)
        assert made["fp32"].run(request) == pytest.approx(expected, abs=1e-4)
        assert made["fp16"].run(request) == pytest.approx(expected, abs=0.05)


@pytest.mark.slow
def test_the_command_says_what_it_is_for(tmp_path: Path) -> None:
    out = str(tmp_path / "guard")
    options = ["export", str(CHECKPOINT), "--out", out, "--device", "cuda", "--quant", "fp16", "--no-gate"]
    assert "engine onnx on cuda, fp16" in _printed(*options)
    assert json.loads(_printed(*options, "--force", "--json"))["device"] == "cuda"
    info = json.loads(_printed("info", out, "--json"))
    assert {key: info[key] for key in ("engine", "quant", "device")} == {
        "engine": "onnx",
        "quant": "fp16",
        "device": "cuda",
    }


def _printed(*arguments: str) -> str:
    command = [sys.executable, "-m", "guardpass", *arguments]
    return subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout


@pytest.mark.parametrize("engine", [Engine("onnx", "bf16", "cpu"), Engine("onnx", "int8", "cuda")])
def test_a_manifest_of_another_precision_is_refused(engine: Engine, two_sided: Path) -> None:
    manifest = loads((two_sided / "guard.json").read_bytes())
    expected = "engine: onnx runs fp32 and int8 and int4 on the cpu, bf16 and fp16 and fp32 on the cuda, found"
    with pytest.raises(ValueError, match=expected):
        check(replace(manifest, engine=engine))
    check(replace(manifest, engine=Engine("onnx", "bf16", "cuda")))
