"""Every key of config.json against transformers: read as it reads it, harmless, refused, or reported."""

import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from guardpass import CheckpointError
from guardpass.export.checkpoint.architecture import KINDS, Kind
from guardpass.export.checkpoint.config import read_architecture
from guardpass.export.checkpoint.config_keys import HARMLESS, known_keys
from guardpass.export.checkpoint.files import Checkpoint
from guardpass.format.manifest_io import dumps, loads

from ..support.broken import set_config
from ..support.models import MODELS, logits, unbaked
from ..support.twins import LLAMA3_ROPE

_TOKENS = list(range(7, 60))


@pytest.fixture
def source(plain_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of a checkpoint, whose config.json may change."""
    return Path(shutil.copytree(plain_checkpoint, tmp_path / "source"))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_no_key_of_transformers_is_unknown(kind: Kind) -> None:
    config = type(AutoConfig.for_model(kind.model_type))
    assert {field.name for field in fields(config)} <= known_keys(kind)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_harmless_keys_change_no_score(kind: Kind) -> None:
    """Whatever they are set to: in transformers, with one model's weights."""
    torch.manual_seed(0)
    model = MODELS["mistral, no window" if kind.model_type == "mistral" else kind.model_type]().eval()
    expected, body = logits(model, _TOKENS), model.config.to_dict()
    for key in sorted(HARMLESS & body.keys()):
        value = body[key]
        other = {bool: not value, int: 3, float: 0.5, type(None): 3}.get(type(value))
        # What is returned beside scores, of which type, and from what other head.
        if other is None or key in ("return_dict", "problem_type", "id2label", "label2id", "dtype"):
            continue
        config = AutoConfig.for_model(**body | {key: other})
        changed = AutoModelForCausalLM.from_config(config).float().eval()
        changed.load_state_dict(model.state_dict())
        np.testing.assert_allclose(logits(changed, _TOKENS), expected, atol=1e-5, err_msg=key)


_THETA = {"rope_theta": 12345.0}
_SPELLINGS: dict[str, dict[str, Any]] = {
    "none": {"rope_theta": ..., "rope_scaling": ...},
    "4, plain": {"rope_theta": 500000.0, "rope_scaling": None},
    "5, plain": {"rope_theta": ..., "rope_scaling": ..., "rope_parameters": {**_THETA, "rope_type": "default"}},
    "5, no type": {"rope_theta": ..., "rope_parameters": _THETA},
    "theta as an integer": {"rope_theta": ..., "rope_parameters": {"rope_theta": 500000, "rope_type": "default"}},
    "null and the old keys": {"rope_parameters": None, "rope_theta": 12345, "rope_scaling": None},
    "4, scaled": {"rope_scaling": LLAMA3_ROPE},
    "4, scaled, older name": {"rope_scaling": {("type" if k == "rope_type" else k): v for k, v in LLAMA3_ROPE.items()}},
    "5, scaled": {"rope_theta": ..., "rope_scaling": None, "rope_parameters": LLAMA3_ROPE | _THETA},
    "both, in agreement": {**_THETA, "rope_scaling": LLAMA3_ROPE, "rope_parameters": LLAMA3_ROPE | _THETA},
    "theta in the scaling": {"rope_theta": ..., "rope_scaling": LLAMA3_ROPE | _THETA},
}


@pytest.mark.parametrize("spelling", _SPELLINGS)
def test_rope_is_read_as_transformers_reads_it(spelling: str, source: Path) -> None:
    set_config(**_SPELLINGS[spelling])(source)
    expected = LlamaRotaryEmbedding(AutoConfig.from_pretrained(source)).inv_freq.numpy()
    checkpoint = Checkpoint(source)
    np.testing.assert_allclose(read_architecture(checkpoint).inv_freq, expected, rtol=1e-6)
    assert checkpoint.notes == []


def test_keys_of_other_architectures_are_reported_and_not_read(tmp_path: Path) -> None:
    """transformers' Llama has no softcaps and no scale of its own, whatever config.json says."""
    others = {
        "query_pre_attn_scalar": 3,
        "attn_logit_softcapping": 1.0,
        "final_logit_softcapping": 1.0,
        "sliding_window": 4,
        "logits_scaling": 8.0,
        "\x1b[31m": 1,
    }
    torch.manual_seed(0)
    MODELS["llama"]().save_pretrained(tmp_path)
    set_config(**others)(tmp_path)
    model, count = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval(), len(_TOKENS)
    feeds = {
        "tokens": np.array([_TOKENS]),
        "positions": np.arange(count)[None],
        "mask": np.tri(count, dtype=bool)[None, None],
        "slots": np.arange(count)[None],
    }
    (found,) = unbaked(tmp_path, list(range(30)), tmp_path).run(None, feeds)
    np.testing.assert_allclose(found[0], logits(model, _TOKENS)[:, :30], atol=1e-4)
    checkpoint = Checkpoint(tmp_path)
    read_architecture(checkpoint)
    (note,) = checkpoint.notes
    assert "that LlamaForCausalLM does not know and nothing reads: '\\x1b[31m', 'attn_logit_softcapping'" in note
    assert all(repr(key) in note for key in others)


def test_scores_that_generation_would_change_are_reported(source: Path) -> None:
    set_config(repetition_penalty=1.2, temperature=0.6, no_repeat_ngram_size=0)(source)
    checkpoint = Checkpoint(source)
    read_architecture(checkpoint)
    assert checkpoint.notes == [
        "config.json changes the scores of generated tokens (repetition_penalty 1.2); a guard reads the model's own "
        "scores"
    ]


@pytest.mark.parametrize(
    ("name", "types"),
    [
        ("mistral, sliding window", ["sliding_attention"] * 4),
        ("mistral, no window", ["full_attention"] * 4),
        ("llama", ["full_attention"] * 4),
        ("qwen3, window from layer 2", ["full_attention"] * 2 + ["sliding_attention"] * 2),
        ("gemma2", ["sliding_attention", "full_attention"] * 2),
    ],
)
def test_layers_that_slide_by_two_keys(name: str, types: list[str], tmp_path: Path) -> None:
    """In agreement they are read; transformers takes one or the other, and which depends on the class."""
    MODELS[name]().save_pretrained(tmp_path)
    set_config(layer_types=types)(tmp_path)
    assert [window is not None for window in read_architecture(Checkpoint(tmp_path)).windows] == [
        each == "sliding_attention" for each in types
    ]
    if name.startswith("gemma2"):  # these read layer_types alone
        return
    if "window from" in name:
        set_config(use_sliding_window=False)(tmp_path)
    else:
        others = {"full_attention": "sliding_attention", "sliding_attention": "full_attention"}
        set_config(layer_types=[others[each] for each in types])(tmp_path)
    with pytest.raises(CheckpointError, match=r"contradicts itself: . of 4 layers slide by layer_types, and ."):
        read_architecture(Checkpoint(tmp_path))


def test_the_report_is_in_the_manifest(exported: Callable[..., Path]) -> None:
    """A guard.json of schema 3 that an earlier version wrote has none."""
    manifest = loads((exported("siren: one-sided template") / "guard.json").read_bytes())
    told = replace(manifest, source=replace(manifest.source, notes=("one", "two")))
    assert loads(dumps(told)).source.notes == ("one", "two")
    assert b'"notes"' in dumps(told)
