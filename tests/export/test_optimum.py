"""`--via optimum` against transformers and our own route. Needs transformers below 5: `make test-optimum` runs it."""

import functools
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from guardpass import Guard
from guardpass.bench.twins import find, tiny, write_twin
from guardpass.errors import CheckpointError, InputError, MissingDependency
from guardpass.export import export_guard
from guardpass.export.checkpoint.config import read_architecture
from guardpass.export.checkpoint.files import Checkpoint
from guardpass.export.decoder.forward import write_decoder
from guardpass.export.decoder.ops import Ops
from guardpass.export.to_onnx.graph import Graph, inputs, outputs
from guardpass.export.to_onnx.linear import RECIPES
from guardpass.export.via_optimum import export as optimum
from guardpass.export.via_optimum.export import OptimumModel, write_via_optimum
from guardpass.format.integrity import sha256
from guardpass.format.manifest import File, Prefix
from guardpass.format.tree import ancestors

from ..support.decoding import Subject, expected_fields, fields, reference
from ..support.helpers import texts
from ..support.published import CASES

optimum_onnx = pytest.importorskip(
    "optimum.exporters.onnx",
    reason="optimum-onnx is not installed; `make test-optimum` runs these tests in an environment of their own",
    exc_type=ImportError,
)

VOCAB, CONTEXT = 512, 256
ROWS = [3, 500, 7]  # not in order, as labels need not be
_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": CONTEXT,
}
_GROUPED = _SIZES | {"num_key_value_heads": 2}

# By name: the class, its config, and whether a tree of verdicts fits. Among them a tied head, a bias on the head,
# scores divided, multiplied and softcapped, learned positions, and masks that must stay (windows, no positions).
MODELS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "llama": ("Llama", _GROUPED, True),
    "qwen2, tied": ("Qwen2", _GROUPED | {"tie_word_embeddings": True}, True),
    "granite, scores divided": ("Granite", _GROUPED | {"logits_scaling": 8.0, "embedding_multiplier": 12.0}, True),
    "cohere, scores multiplied": ("Cohere", _GROUPED | {"logit_scale": 0.0625}, True),
    "phi, bias on the head": ("Phi", _SIZES | {"partial_rotary_factor": 0.5}, True),
    "stablelm, mask of the older kind": ("StableLm", _GROUPED, True),
    "gpt2, learned positions": (
        "GPT2",
        {"vocab_size": VOCAB, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": CONTEXT},
        True,
    ),
    "falcon, alibi": (
        "Falcon",
        {key: value for key, value in _SIZES.items() if key != "intermediate_size"}
        | {"alibi": True, "new_decoder_architecture": False},
        False,
    ),
    "mistral, all layers slide": ("Mistral", _GROUPED | {"sliding_window": 40}, False),
    "gemma2, some layers slide, softcap": ("Gemma2", _GROUPED | {"head_dim": 16, "sliding_window": 40}, False),
    "gemma3, no positions": ("Gemma3Text", _GROUPED | {"head_dim": 16, "sliding_window": 40}, False),
}


def _model(name: str) -> Any:
    kind, config, _ = MODELS[name]
    classes = [f"{kind.removesuffix('Text')}ForCausalLM", f"{kind}LMHeadModel"]
    cls = next(getattr(transformers, each) for each in classes if hasattr(transformers, each))
    torch.manual_seed(0)
    model = cls(getattr(transformers, f"{kind}Config")(pad_token_id=0, bos_token_id=1, eos_token_id=2, **config))
    with torch.no_grad():
        for weight in model.parameters():  # fresh norms and biases are all ones and zeros, which hides mistakes
            weight.mul_(4) if weight.dim() > 1 else weight.add_(torch.randn_like(weight) / 10)
    return model.eval()


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Path, Path, OptimumModel]]:
    """Model, checkpoint, directory of the cut graph, and what was reported; each made once."""
    made: dict[str, tuple[Any, Path, Path, OptimumModel]] = {}

    def make(name: str) -> tuple[Any, Path, Path, OptimumModel]:
        if name not in made:
            checkpoint, directory = tmp_path_factory.mktemp("checkpoint"), tmp_path_factory.mktemp("cut")
            model = _model(name)
            model.save_pretrained(checkpoint)
            made[name] = model, checkpoint, directory, write_via_optimum(checkpoint, directory, ROWS)
        return made[name]

    return make


def _run(directory: Path, tokens: list[int], parents: list[int], slots: list[int]) -> np.ndarray:
    session = onnxruntime.InferenceSession(directory / "model.onnx")
    mask = ancestors(tuple(parents))
    feeds = {
        "tokens": np.array([tokens]),
        "positions": mask.sum(axis=1)[None] - 1,
        "mask": mask[None, None],
        "slots": np.array([slots]),
    }
    (scores,) = session.run(["scores"], feeds)
    assert scores.shape == (1, len(slots), len(ROWS))
    assert scores.dtype == np.float32
    return scores[0]


@torch.no_grad()
def _logits(model: Any, tokens: list[int]) -> np.ndarray:
    return model(torch.tensor([tokens])).logits[0][:, ROWS].numpy()


def _tokens(size: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB, size).tolist()


@pytest.mark.parametrize("name", MODELS)
def test_a_chain_scores_as_transformers_does(name: str, cut: Callable[..., Any]) -> None:
    model, _, directory, _ = cut(name)
    for size in (1, 2, 30, 100, CONTEXT):
        tokens, slots = _tokens(size, size), sorted({0, size // 2, size - 1})
        found = _run(directory, tokens, list(range(-1, size - 1)), slots)
        np.testing.assert_allclose(found, _logits(model, tokens)[slots], atol=1e-3)


@pytest.mark.parametrize("name", [name for name, (*_, tree) in MODELS.items() if tree])
def test_branches_of_a_tree_score_as_sequences_of_their_own(name: str, cut: Callable[..., Any]) -> None:
    model, _, directory, report = cut(name)
    assert report.tree_mask
    span, branches = _tokens(50, 1), [_tokens(size, size) for size in (4, 90, 11)]
    tokens, parents, slots = list(span), list(range(-1, 49)), [49]
    for branch in branches:
        parents += [49, *range(len(tokens), len(tokens) + len(branch) - 1)]
        tokens += branch
        slots.append(len(tokens) - 1)
    expected = [_logits(model, span)[-1], *(_logits(model, span + branch)[-1] for branch in branches)]
    np.testing.assert_allclose(_run(directory, tokens, parents, slots), expected, atol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_report_and_files(name: str, cut: Callable[..., Any]) -> None:
    model, _, directory, report = cut(name)
    data = directory / "model.onnx.data"
    assert report == OptimumModel(
        {path.name: File(sha256(path), path.stat().st_size) for path in (data, directory / "model.onnx")},
        type(model).__name__,
        model.config.max_position_embeddings,
        VOCAB,
        MODELS[name][2],
    )
    assert sorted(path.name for path in directory.iterdir()) == ["model.onnx", data.name], "optimum's files are gone"
    onnx.checker.check_model(str(directory / "model.onnx"), full_check=True)
    graph = onnx.load(directory / "model.onnx", load_external_data=False).graph
    assert list(graph.input) == inputs(0)
    assert list(graph.output) == outputs(len(ROWS))
    read = {name for node in graph.node for name in node.input} | {"scores"}
    assert all(read.intersection(node.output) for node in graph.node), "nodes without use"
    assert {weight.name for weight in graph.initializer} <= read
    heads = [weight.name for weight in graph.initializer if list(weight.dims) == [64, VOCAB]]
    assert not heads, "the full head is gone"


def test_equals_our_own_route(cut: Callable[..., Any], tmp_path: Path) -> None:
    _, checkpoint, directory, _ = cut("llama")
    source = Checkpoint(checkpoint)
    shape, graph = read_architecture(source), Graph(tmp_path / "model.onnx.data")
    write_decoder(Ops(source, shape, graph, RECIPES["fp32"], Prefix((), ()), lambda _: None), shape, ROWS)
    graph.finish(tmp_path / "model.onnx", inputs(0), outputs(len(ROWS)))
    tokens, parents = _tokens(60, 2), [*range(-1, 39), *[19, *range(40, 59)]]
    found, expected = (_run(each, tokens, parents, list(range(60))) for each in (directory, tmp_path))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_head_that_is_the_embedding_turned(
    cut: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without constant folding the exporter leaves weights as they are stored and transposes them in the graph."""
    model, checkpoint, *_ = cut("qwen2, tied")
    export = functools.partial(optimum_onnx.onnx_export_from_model, do_constant_folding=False)
    monkeypatch.setattr(optimum_onnx, "onnx_export_from_model", export)
    assert write_via_optimum(checkpoint, tmp_path, ROWS).tree_mask
    tokens = _tokens(40, 4)
    found = _run(tmp_path, tokens, list(range(-1, 39)), list(range(40)))
    np.testing.assert_allclose(found, _logits(model, tokens), atol=1e-3)
    graph = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph
    assert [weight.name for weight in graph.initializer if VOCAB in weight.dims] == ["model.embed_tokens.weight"]


def _refusal(checkpoint: Path, tmp_path: Path, rows: list[int] = ROWS) -> str:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(CheckpointError) as caught:
        write_via_optimum(checkpoint, out, rows)
    assert not [path for path in out.iterdir() if path.is_dir()], "optimum's files are gone"
    return str(caught.value)


def test_refuses_an_architecture_that_optimum_does_not_know(tmp_path: Path) -> None:
    config = transformers.Exaone4Config(pad_token_id=0, **_GROUPED)
    transformers.Exaone4ForCausalLM(config).save_pretrained(tmp_path)
    assert "optimum cannot export this checkpoint (ValueError: Trying to export a exaone4" in _refusal(
        tmp_path, tmp_path
    )


def test_refuses_code_of_the_checkpoint(cut: Callable[..., Any], tmp_path: Path) -> None:
    shutil.copytree(cut("llama")[1], tmp_path / "checkpoint")
    config = json.loads((tmp_path / "checkpoint/config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Model"}}
    (tmp_path / "checkpoint/config.json").write_text(json.dumps(config))
    (tmp_path / "checkpoint/mine.py").write_text("raise SystemExit('this must not run')")
    assert "transformers cannot run this checkpoint (ValueError" in _refusal(tmp_path / "checkpoint", tmp_path)


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_refuses_weights_that_are_not_the_models(change: str, cut: Callable[..., Any], tmp_path: Path) -> None:
    shutil.copytree(cut("qwen2, tied")[1], tmp_path / "checkpoint")
    path, name = tmp_path / "checkpoint/model.safetensors", "model.layers.1.self_attn.q_proj.bias"
    weights = load_file(path)
    weights[f"{name}.more"] = weights.pop(name) if change == "missing" else weights[name].clone()
    save_file(weights, path, {"format": "pt"})
    assert f"places, among them {name}" in _refusal(tmp_path / "checkpoint", tmp_path)


def test_refuses_rows_beyond_the_vocabulary(cut: Callable[..., Any], tmp_path: Path) -> None:
    assert f"verdict ids go up to {VOCAB}, and the model" in _refusal(cut("llama")[1], tmp_path, [3, VOCAB])


def test_refuses_a_graph_that_scores_otherwise(
    cut: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = optimum.Uncut._verdicts

    def wrong(self: Any, name: str, rows: list[int], vocab: int) -> str:
        return verdicts(self, name, rows[::-1], vocab)

    monkeypatch.setattr(optimum.Uncut, "_verdicts", wrong)
    assert "of the largest score from those of transformers, expected at most 0.001" in _refusal(
        cut("llama")[1], tmp_path
    )


def test_a_mask_that_only_looks_causal_is_kept(
    cut: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the tree's scores are wrong, the graph that is left is right for a chain, and says so."""
    model, checkpoint, *_ = cut("mistral, all layers slide")
    monkeypatch.setattr(optimum.Uncut, "_causal", lambda *_: True)
    monkeypatch.setattr(optimum, "_ENDS", (6, 60))  # far enough for the window of 40 to show
    assert not write_via_optimum(checkpoint, tmp_path, ROWS).tree_mask
    tokens = _tokens(100, 3)
    np.testing.assert_allclose(
        _run(tmp_path, tokens, list(range(-1, 99)), [99]), _logits(model, tokens)[[99]], atol=1e-3
    )


def test_says_what_to_install(cut: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = cut("llama")[1]
    monkeypatch.setitem(sys.modules, "optimum.exporters.onnx", None)
    with pytest.raises(MissingDependency, match=r"pip install guardpass\[optimum\]` in an environment of its own"):
        write_via_optimum(checkpoint, tmp_path, ROWS)


def _guarded(name: str, twin: str, directory: Path) -> Path:
    """A tiny checkpoint of a model's class with a published guard's tokenizer and template."""
    write_twin(tiny(find(twin)), directory / "twin")
    kind, config, _ = MODELS[name]
    torch.manual_seed(0)
    sizes = config | {"vocab_size": 2048, "max_position_embeddings": 4096}
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**sizes))
    model.save_pretrained(directory / "checkpoint")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(directory / "twin" / file, directory / "checkpoint")
    return directory / "checkpoint"


def test_both_routes_give_the_same_guard(tmp_path: Path) -> None:
    """A tiny Llama, from checkpoint to verdict."""
    write_twin(tiny(find("kanana-safeguard-8b")), tmp_path / "twin")
    for via in ("own", "optimum"):
        export_guard(tmp_path / "twin", tmp_path / via, quant="fp32", via=via)  # type: ignore[arg-type]
    own, other = Guard.load(tmp_path / "own", normalize="off"), Guard.load(tmp_path / "optimum", normalize="off")
    for text in texts(20):
        for response in (None, text[::-1].encode("utf-8", "ignore").decode()):
            expected, found = own.check(text, response), other.check(text, response)
            assert (found.label, found.categories) == (expected.label, expected.categories)
            assert found.score == pytest.approx(expected.score, abs=1e-3)
            assert found.tokens.prefix == 0
            assert found.tokens.run >= expected.tokens.run + expected.tokens.prefix


def test_a_tree_of_an_architecture_outside_the_table(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.family == "qwen3guard-gen")
    checkpoint = _guarded("qwen2, tied", case.twin, tmp_path)
    export_guard(checkpoint, tmp_path / "guard", quant="fp32", via="optimum")
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(checkpoint)
    subject = Subject(case, model, tokenizer, Guard.load(tmp_path / "guard", normalize="off"))
    for text in texts(15):
        for response in (None, "no way"):
            decoded = reference(subject, text, response)
            assert fields(subject.guard.check(text, response)) == expected_fields(decoded)


def test_a_tree_that_the_mask_cannot_hold_is_refused(tmp_path: Path) -> None:
    checkpoint = _guarded("gemma2, some layers slide, softcap", "qwen3guard-gen-0.6b", tmp_path)
    with pytest.raises(CheckpointError, match="keeps a mask of its own, so it runs answers of one slot"):
        export_guard(checkpoint, tmp_path / "guard", quant="fp32", via="optimum")
    assert not (tmp_path / "guard").exists()
    with pytest.raises(InputError, match="quant 'int8', expected onnx and fp32, which is all optimum writes"):
        export_guard(checkpoint, tmp_path / "guard", quant="int8", via="optimum")
