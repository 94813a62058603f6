"""fp32 guards against transformers: ids, logits and verdicts, for every variant and both modes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from guardpass import Guard
from guardpass.bench.reference import load_reference

from ..support.helpers import ids, scores, template_ids, texts
from ..support.models import logits, unbaked
from ..support.twins import PLAIN, VARIANTS


def _reference(checkpoint: Path) -> tuple[torch.nn.Module, PreTrainedTokenizerFast]:
    # Not AutoTokenizer, which reads the config that `load_reference` has to read in its own way.
    return load_reference(checkpoint, torch.float32), PreTrainedTokenizerFast.from_pretrained(checkpoint)


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
            expected = logits(model, tokens)[-1, list(guard.manifest.columns)]
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
    session = unbaked(checkpoint(variant), rows, tmp_path)

    tokens = np.random.default_rng(0).integers(0, 500, 90)
    feeds = {
        "tokens": tokens[None],
        "positions": np.arange(90)[None],
        "mask": np.tri(90, dtype=bool)[None, None],
        "slots": np.arange(90)[None],
    }
    (found,) = session.run(None, feeds)
    np.testing.assert_allclose(found[0], logits(model, tokens.tolist())[:, rows], atol=1e-4)


def test_baked_prefix_gives_the_scores_of_an_unbaked_one(
    checkpoint: Callable[[str], Path], exported: Callable[..., Path], tmp_path: Path
) -> None:
    variant = PLAIN
    guard = Guard.load(exported(variant), normalize="off")
    session = unbaked(checkpoint(variant), list(guard.manifest.columns), tmp_path)
    for text in ["", "안녕하세요", "/> merges with the seam", "a" * 50, *texts(10, seed=3)]:
        tokens = np.array([ids(guard, text, "reply")])
        size = tokens.shape[1]
        feeds = {
            "tokens": tokens,
            "positions": np.arange(size)[None],
            "mask": np.tri(size, dtype=bool)[None, None],
            "slots": np.array([[size - 1]]),
        }
        (whole,) = session.run(None, feeds)
        np.testing.assert_allclose(scores(guard, text, "reply"), whole[0, 0], atol=1e-4)
