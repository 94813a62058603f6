"""fp32 guards against transformers: ids, logits and verdicts, for every variant and both modes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from guardpass import Guard
from guardpass.bench.reference import load_reference
from guardpass.export.checkpoint.config import read_architecture
from guardpass.export.checkpoint.files import Checkpoint
from guardpass.export.decoder.forward import write_decoder
from guardpass.export.decoder.ops import Ops
from guardpass.export.to_onnx.graph import Graph, inputs, outputs
from guardpass.export.to_onnx.linear import RECIPES
from guardpass.format.manifest import Prefix

from ..conftest import VARIANTS
from ..support.helpers import ids, scores, template_ids, texts


def _reference(checkpoint: Path) -> tuple[torch.nn.Module, PreTrainedTokenizerFast]:
    # Not AutoTokenizer, which reads the config that `load_reference` has to read in its own way.
    return load_reference(checkpoint, torch.float32), PreTrainedTokenizerFast.from_pretrained(checkpoint)


@torch.no_grad()
def _logits(model: torch.nn.Module, tokens: list[int]) -> np.ndarray:
    return model(torch.tensor([tokens])).logits[0].numpy()


def _unbaked(checkpoint: Path, rows: list[int], directory: Path) -> onnxruntime.InferenceSession:
    """The checkpoint's fp32 graph with an empty prefix, scoring the vocabulary's `rows`."""
    source = Checkpoint(checkpoint)
    shape, graph = read_architecture(source), Graph(directory / "model.onnx.data")
    write_decoder(Ops(source, shape, graph, RECIPES["fp32"], Prefix((), ()), lambda _: None), shape, rows)
    graph.finish(directory / "model.onnx", inputs(0), outputs(len(rows)))
    return onnxruntime.InferenceSession(directory / "model.onnx")


@pytest.mark.parametrize("variant", VARIANTS)
def test_fp32_equals_transformers(
    variant: str, checkpoint: Callable[[str], Path], exported: Callable[..., Path]
) -> None:
    model, tokenizer = _reference(checkpoint(variant))
    guard = Guard.load(exported(variant), normalize="off")
    labels = guard.manifest.labels
    seen = set()
    for index, text in enumerate(texts(100, seed=1)):
        both = "response" in guard.manifest.modes
        for response in [None, texts(100, seed=2)[index]] if both else [None]:
            tokens = template_ids(tokenizer, text, response)
            assert ids(guard, text, response) == tokens
            expected = _logits(model, tokens)[-1, list(guard.manifest.columns)]
            np.testing.assert_allclose(scores(guard, text, response), expected, atol=1e-3)
            verdict = guard.check(text, response)
            assert verdict.label == labels[int(np.argmax(expected))].name
            weights = np.exp(expected - expected.max())
            unsafe = np.array([label.severity == "unsafe" for label in labels])
            assert verdict.score == pytest.approx(weights[unsafe].sum() / weights.sum(), abs=1e-3)
            seen.add(verdict.label)
    assert len(seen) > 1, "random weights that always give one label prove little"


def test_baking_and_pruning_change_nothing(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """The same weights with nothing baked and every position a slot: all of transformers' logits, and the guard's."""
    variant = "2.1b: tied, heads wider than hidden"
    model, _ = _reference(checkpoint(variant))
    rows = list(range(50))
    session = _unbaked(checkpoint(variant), rows, tmp_path)

    tokens = np.random.default_rng(0).integers(0, 500, 90)
    feeds = {
        "tokens": tokens[None],
        "positions": np.arange(90)[None],
        "mask": np.tri(90, dtype=bool)[None, None],
        "slots": np.arange(90)[None],
    }
    (found,) = session.run(None, feeds)
    np.testing.assert_allclose(found[0], _logits(model, tokens.tolist())[:, rows], atol=1e-4)


def test_baked_prefix_gives_the_scores_of_an_unbaked_one(
    checkpoint: Callable[[str], Path], exported: Callable[..., Path], tmp_path: Path
) -> None:
    variant = "8b: untied, grouped heads, two shards, bf16"
    guard = Guard.load(exported(variant), normalize="off")
    session = _unbaked(checkpoint(variant), list(guard.manifest.columns), tmp_path)
    for text in ["", "안녕하세요", "/> merges with the seam", "a" * 50, *texts(10, seed=3)]:
        tokens = np.array([ids(guard, text, "reply")])
        size = tokens.shape[1]
        feeds = {
            "tokens": tokens,
            "positions": np.arange(size)[None],
            "mask": np.tri(size, dtype=bool)[None, None],
            "slots": np.array([[size - 1]]),
        }
        (unbaked,) = session.run(None, feeds)
        np.testing.assert_allclose(scores(guard, text, "reply"), unbaked[0, 0], atol=1e-4)
