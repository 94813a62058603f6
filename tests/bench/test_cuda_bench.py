"""python -m guardpass.bench.cuda, as its dry run on the CPU."""

import json
from pathlib import Path

import pytest

from guardpass.bench.cuda.__main__ import floor, main
from guardpass.bench.cuda.contenders import Machine
from guardpass.bench.twins import find, shapes

_FAST = Machine("a GPU", 4000.0, 800.0, "torch.bfloat16")


def test_a_floor_is_of_reading_or_of_multiplying() -> None:
    """The figures of the issue: 8B in bf16 reads 14 GB, and from some hundred tokens on multiplies for longer."""
    config = find("kanana-safeguard-8b").config
    weights = sum(a * b for name, (a, *rest) in shapes(config).items() if ".layers." in name for b in rest)
    assert floor(config, 2, _FAST, 128, 1) == (pytest.approx(weights * 2 / 4000e6), "reading")
    found = floor(config, 2, _FAST, 32 * 128, 32)
    assert found is not None
    least, of = found
    whole = 2 * weights * 32 * 128 / 800e9
    assert of == "multiplying"
    # The last layer's queries, output and MLP are of the slots alone: nearly a layer of 32 less.
    assert whole * 31 / 32 < least < whole * 31.2 / 32
    assert floor(config, 2, Machine("no torch", None, None, None), 128, 1) is None


@pytest.mark.torch
@pytest.mark.slow
def test_a_dry_run_measures_everybody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cuda.json"
    main(
        [
            "--work",
            str(tmp_path),
            "--out",
            str(out),
            "--device",
            "cpu",
            "--tiny",
            "--seconds",
            "0.01",
            "--twin",
            "kanana-safeguard-8b=2",
            "--twin",
            "shieldgemma-2b",
            "--tokens",
            "32",
            "600",
            "--batch",
            "1",
            "3",
        ]
    )
    report = json.loads(out.read_text())
    cells = report["cells"]
    missing = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    captured = "transformers, CUDA graph: left out: a CUDA graph needs --device cuda"
    assert missing[::2] == [captured] * 2
    # Unlike the published one, a tiny Gemma has a scale that llama.cpp cannot compute.
    assert missing[1].startswith("guardpass, llama.cpp: left out: llama.cpp runs gemma2 with an attention scale")
    assert len(missing) == 3
    ours, peer = "guardpass, onnx", "transformers"
    kanana = {(c["contender"], c["tokens"], c["batch"]): c for c in cells if c["twin"] == "kanana-safeguard-8b"}
    assert {name for name, _, _ in kanana} == {ours, peer, "guardpass, llama.cpp"}
    assert {(tokens, batch) for name, tokens, batch in kanana if name == ours} == {(32, 1), (32, 3), (600, 1), (600, 3)}
    assert {batch for name, _, batch in kanana if name == "guardpass, llama.cpp"} == {1}
    for cell in cells:
        assert cell["runs"] >= 20
        assert 0 < cell["median_ms"] <= cell["p95_ms"]
        assert cell["requests_per_s"] == pytest.approx(cell["batch"] / cell["median_ms"] * 1e3)
        assert cell["share"] == pytest.approx(cell["floor_ms"] / cell["median_ms"])
        assert (cell["outside_ms"] is not None) == (cell["contender"] == ours and cell["tokens"] == 32)
    # Cut from the three layers of a tiny twin to two, and said so; the other is whole.
    assert kanana[ours, 32, 1]["scaled_median_ms"] == pytest.approx(kanana[ours, 32, 1]["median_ms"] * 3 / 2)
    whole = [cell for cell in cells if cell["twin"] == "shieldgemma-2b"]
    assert {(cell["layers"], cell["scaled_median_ms"]) for cell in whole} == {(4, None)}
    assert {cell["tokens"] for cell in whole} == {32, 600}
