"""A head that config.json ties to the embedding and the checkpoint stores apart: the stored one is used, everywhere."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from guardpass import CheckpointError, Guard
from guardpass.bench.reference import load_reference
from guardpass.export import export_guard
from guardpass.export.checkpoint.config import read_architecture
from guardpass.export.checkpoint.files import Checkpoint
from guardpass.export.via_optimum import export as optimum

from ..support.helpers import scores, template_ids, texts
from ..support.models import MODELS, logits, unbaked

_TIED = "2.1b: tied, heads wider than hidden"
_NOTE = "config.json ties the output head to the embedding, and lm_head.weight differs"


def _with_head(source: Path, head: Callable[[torch.Tensor], torch.Tensor], **config: Any) -> Path:
    """Store a head made from the embedding beside it, and tie the two in config.json."""
    tensors = load_file(source / "model.safetensors")
    tensors["lm_head.weight"] = head(tensors["model.embed_tokens.weight"])
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    body = json.loads((source / "config.json").read_text()) | {"tie_word_embeddings": True} | config
    (source / "config.json").write_text(json.dumps(body))
    return source


def _other(embedding: torch.Tensor) -> torch.Tensor:
    """What a tuning that trains the head leaves: the embedding, moved."""
    noise = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(1))
    return (embedding.float() + noise * embedding.float().std()).to(embedding.dtype)


@pytest.fixture
def tied(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of a tied checkpoint."""
    return Path(shutil.copytree(checkpoint(_TIED), tmp_path / "kanana-safeguard-prompt-2.1b"))


@pytest.mark.parametrize("name", ["llama", "mistral, no window", "qwen3", "gemma2"])
def test_every_architecture_scores_with_the_stored_head(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    MODELS[name]().save_pretrained(tmp_path)
    _with_head(tmp_path, _other)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens = np.random.default_rng(0).integers(0, 300, 40)
    feeds = {
        "tokens": tokens[None],
        "positions": np.arange(40)[None],
        "mask": np.tri(40, dtype=bool)[None, None],
        "slots": np.arange(40)[None],
    }
    (found,) = unbaked(tmp_path, list(range(30)), tmp_path).run(None, feeds)
    np.testing.assert_allclose(found[0], logits(model, tokens.tolist())[:, :30], atol=1e-4)


@pytest.mark.parametrize(
    ("engine", "quant", "near"),
    [
        ("onnx", "fp32", 1e-3),
        ("llamacpp", "f32", 2e-2),
        ("onnx", "int8", 0.2),
        ("native", "int8", 0.2),
    ],
)
def test_every_engine_scores_with_the_stored_head(
    engine: Any, quant: str, near: float, tied: Path, tmp_path: Path
) -> None:
    """The gate's reference too: against the embedding's scores it would find flips."""
    if engine == "native":
        pytest.importorskip("guardpass_kernels")
    _with_head(tied, _other)
    said = [{"text": text} for text in texts(10, seed=7)]
    (tmp_path / "gate.jsonl").write_text("".join(json.dumps(line) + "\n" for line in said))
    gate = {"gate_texts": tmp_path / "gate.jsonl", "max_flip_rate": 0.2} if quant == "int8" else {"gate": False}
    manifest = export_guard(tied, tmp_path / "guard", engine=engine, quant=quant, **gate)  # type: ignore[arg-type]
    assert [note for note in manifest.source.notes if note.startswith(_NOTE)]
    guard, model = Guard.load(tmp_path / "guard", threads=1), load_reference(tied, torch.float32)
    tokenizer, columns = PreTrainedTokenizerFast.from_pretrained(tied), list(manifest.columns)
    embedding = model.model.embed_tokens.weight.detach().numpy()[columns]
    flipped = 0
    for line in said:
        ids = template_ids(tokenizer, line["text"])
        expected = logits(model, ids)[-1, columns]
        np.testing.assert_allclose(scores(guard, line["text"]), expected, atol=near)
        with torch.no_grad():
            hidden = model.model(torch.tensor([ids])).last_hidden_state[0, -1].numpy()
        flipped += int(np.argmax(embedding @ hidden) != np.argmax(expected))
    assert flipped, "heads that always agree prove nothing"


@pytest.mark.parametrize("head", [torch.clone, torch.Tensor.float], ids=["same type", "wider type"])
def test_a_head_that_repeats_the_embedding_stays_tied(head: Any, tied: Path) -> None:
    source = Checkpoint(_with_head(tied, head))
    assert read_architecture(source).tied
    assert source.notes == []


@pytest.mark.parametrize("value", [True, False])
def test_gemma_2_in_llama_cpp_has_no_head_of_its_own(value: bool, tmp_path: Path) -> None:
    """llama.cpp scores with the embedding whatever the file holds."""
    from guardpass.export.to_gguf.model import context_of

    MODELS["gemma2"]().save_pretrained(tmp_path)
    shape = read_architecture(Checkpoint(_with_head(tmp_path, _other, tie_word_embeddings=value)))
    with pytest.raises(CheckpointError, match=r"llama.cpp runs gemma2 .* another head; export to onnx"):
        context_of(shape)


def test_optimum_takes_no_model_that_dropped_a_tensor(tied: Path) -> None:
    """transformers 4 ties without a look at the stored head; here the same is done to a model of transformers 5."""
    source = Checkpoint(_with_head(tied, _other))
    model = load_reference(tied, torch.float32)
    optimum.check_loaded(source, model)
    model.lm_head.weight = model.model.embed_tokens.weight
    with pytest.raises(CheckpointError, match=r"other values in the place of lm_head.weight.*tie_word_embeddings"):
        optimum.check_loaded(source, model)
