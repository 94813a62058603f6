"""Every architecture of the table against transformers: random weights, longer than any window, baked or not."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from guardpass.export.checkpoint.architecture import KINDS
from guardpass.export.checkpoint.config import read_architecture
from guardpass.export.checkpoint.files import Checkpoint
from guardpass.export.decoder.forward import write_decoder
from guardpass.export.decoder.ops import Ops
from guardpass.export.to_onnx.graph import Graph, inputs, outputs
from guardpass.export.to_onnx.linear import RECIPES
from guardpass.format.manifest import Prefix

from ..support.models import MODELS, ROTATED, SIZES

_TOKENS, _PREFIX, _ROWS = 60, 25, 30


@dataclass(frozen=True)
class _Case:
    checkpoint: Path
    tokens: np.ndarray
    logits: np.ndarray  # [tokens, rows]


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> _Case:
    torch.manual_seed(0)
    model = MODELS[request.param]().float().eval()
    for parameter in model.parameters():
        # Gains scatter around what the architecture calls neutral; matrices are large enough to reach the softcaps.
        neutral = 0.0 if parameter.dim() > 1 or "gemma" in request.param else 1.0
        parameter.data = neutral + torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.2)
    directory = tmp_path_factory.mktemp("model")
    model.save_pretrained(directory)
    tokens = np.random.default_rng(0).integers(0, SIZES["vocab_size"], _TOKENS)
    with torch.no_grad():
        logits = model(torch.tensor(tokens)[None]).logits[0, :, :_ROWS].numpy()
    return _Case(directory, tokens, logits)


def _scores(case: _Case, quant: str, baked: int, directory: Path) -> np.ndarray:
    """Scores of every position behind the first `baked`, which are a prefix."""
    source = Checkpoint(case.checkpoint)
    shape, graph = read_architecture(source), Graph(directory / "model.onnx.data")
    prefix = Prefix(tuple(case.tokens[:baked].tolist()), tuple(range(-1, baked - 1)))
    recipe = ROTATED if quant == "rotated" else RECIPES[quant]
    write_decoder(Ops(source, shape, graph, recipe, prefix, lambda _: None), shape, range(_ROWS))
    graph.finish(directory / "model.onnx", inputs(baked), outputs(_ROWS))
    run = _TOKENS - baked
    mask = np.ones((run, _TOKENS), np.bool_)
    mask[:, baked:] = np.tri(run, dtype=np.bool_)
    feeds = {
        "tokens": case.tokens[None, baked:],
        "positions": np.arange(baked, _TOKENS)[None],
        "mask": mask[None, None],
        "slots": np.arange(run)[None],
    }
    (scores,) = onnxruntime.InferenceSession(directory / "model.onnx").run(None, feeds)
    found: np.ndarray = scores[0]
    return found


@pytest.mark.parametrize("baked", [0, _PREFIX])
def test_rotations_change_no_score(case: _Case, baked: int, tmp_path: Path) -> None:
    """Folded into float32 weights they cancel; what remains is rounding."""
    plain, rotated = (tmp_path / name for name in ("plain", "rotated"))
    plain.mkdir()
    rotated.mkdir()
    found, expected = _scores(case, "rotated", baked, rotated), _scores(case, "fp32", baked, plain)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("baked", [0, _PREFIX])
def test_fp32_equals_transformers(case: _Case, baked: int, tmp_path: Path) -> None:
    np.testing.assert_allclose(_scores(case, "fp32", baked, tmp_path), case.logits[baked:], atol=1e-3)


@pytest.mark.parametrize(("quant", "near"), [("int8", 0.2), ("int4", 0.8)])
def test_quantized_stays_near(case: _Case, quant: str, near: float, tmp_path: Path) -> None:
    """With weights this large and random, near is not very near; what matters is that every operator is in place:
    scores of another function would be 1.4 apart.
    """
    found, expected = _scores(case, quant, _PREFIX, tmp_path), case.logits[_PREFIX:]
    assert np.linalg.norm(found - expected) < near * np.linalg.norm(expected)


def test_the_table_is_covered() -> None:
    assert {kind.model_type for kind in KINDS} == {name.split(",")[0] for name in MODELS}
