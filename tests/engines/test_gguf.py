"""GGUF guards: llama.cpp against transformers, against itself step by step, and against our own ONNX engine."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from guardpass import CheckpointError, Guard, InputError
from guardpass.bench.peers.adapters.llama_cpp import repacking
from guardpass.bench.twins import find, tiny, write_twin
from guardpass.engines.llamacpp.library import has_tiles
from guardpass.export import export_guard
from guardpass.export.to_gguf.quantize import QUANTS
from guardpass.format.gguf_header import BLOCKS, read_header

from ..support.decoding import Subject, expected_fields, fields, reference
from ..support.engines import engine_of
from ..support.helpers import contents, ids, opened, texts
from ..support.profiles import scaled
from ..support.published import CASES, Case
from ..support.twins import LLAMA3_ROPE, Twins, wide

_TEXTS, _NEAR = scaled(100, least=50), 2e-2
_Q4_K, _Q6_K = 12, 14  # ggml's numbers


@pytest.fixture(scope="session")
def made(twins: Twins) -> Callable[[Case], Path]:
    """The checkpoint of a case."""
    return lambda case: twins.checkpoint(wide(tiny(find(case.twin))))


@pytest.fixture(scope="session")
def guards(twins: Twins) -> Callable[[Case, str], Path]:
    """Guard directory of a case at a quant of either format."""

    def make(case: Case, quant: str) -> Path:
        engine = "onnx" if quant == "fp32" else "llamacpp"
        return twins.guard(wide(tiny(find(case.twin))), quant, engine=engine, family=case.family, date=case.date)

    return make


def _named(family: str) -> Case:
    return next(case for case in CASES if case.family == family)


def _requests(case: Case, count: int) -> Iterator[tuple[str, str | None]]:
    both = "response" in case.row.modes
    for number, (text, reply) in enumerate(
        zip(texts(count, seed=5, longest=12), texts(count, seed=6, longest=12), strict=True)
    ):
        yield text, reply if both and number % 2 else None


def _scores(guard: Guard, text: str, response: str | None) -> dict[str, list[dict[int, float]]]:
    """By root, or "" where there is but one: logits by token of every slot that its walk passes."""
    mode, given = contents(text, response)
    plans, decider = guard.judge.prepared(mode, guard.judge.policies(mode, None))
    rows, tree, columns = engine_of(guard).run(plans.plan(plans.span(given)))[0], decider._tree, guard.manifest.columns
    found: dict[str, list[dict[int, float]]] = {}
    for root in tree.roots:
        walk = found.setdefault(tree.slots[root].field if guard.manifest.modes[mode].asked else "", [])
        slot: int | None = root
        while slot is not None:
            scores = {choice.column: float(rows[slot][choice.column]) for choice in tree.slots[slot].choices}
            walk.append({columns[column]: score for column, score in scores.items()})
            slot = max(tree.slots[slot].choices, key=lambda choice: scores[choice.column]).next
    return found


@pytest.mark.parametrize("case", CASES[:-1], ids=lambda case: case.family)
def test_f16_equals_transformers(
    case: Case, made: Callable[[Case], Path], guards: Callable[[Case, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(made(case), dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(made(case))
    guard, rough = opened(guards(case, "f16")), opened(guards(case, "q8_0"))
    subject = Subject(case, model, tokenizer, guard)
    worst, ties, agreed = 0.0, 0, 0
    for text, response in _requests(case, _TEXTS):
        decoded = reference(subject, text, response)
        agreed += fields(rough.check(text, response)) == expected_fields(decoded)
        if fields(guard.check(text, response)) != expected_fields(decoded):
            assert min(each.nearest for each in decoded.values()) < _NEAR, (text, response, decoded)
            ties += 1
            continue
        for policy, walk in _scores(guard, text, response).items():
            for found, wanted in zip(walk, decoded[policy].scores, strict=True):
                assert found.keys() == wanted.keys()
                worst = max(worst, *(abs(found[id] - wanted[id]) for id in wanted))
    with capsys.disabled():
        print(f" [worst logit {worst:.4f} off, {ties} near ties; q8_0 agrees on {agreed} of {_TEXTS}] ", end="")
    assert worst < _NEAR
    assert ties <= _TEXTS // 50


@pytest.mark.parametrize("family", ["kanana-safeguard", "wildguard-ko", "shieldgemma", "qwen3guard-gen", "wildguard"])
def test_stock_llama_cpp_says_the_same_first_token(family: str, guards: Callable[[Case, str], Path]) -> None:
    """llama-cpp-python's own completion, held to the verdict tokens by a bias that is the same for all of them."""
    case = _named(family)
    guard = opened(guards(case, "f16"))
    with repacking(not has_tiles(llama_cpp)):
        stock = llama_cpp.Llama(
            str(guards(case, "f16") / "model.gguf"), n_ctx=2048, n_threads=1, n_threads_batch=1, verbose=False
        )
    spec, said = guard.manifest.modes["prompt"], set()
    root = spec.tree.slots[spec.tree.roots[0]]
    for text in texts(20, seed=8):
        (first,) = [walk[0] for name, walk in _scores(guard, text, None).items() if name in ("", root.field)]
        path, node = [], root.node
        while node >= 0:
            path.insert(0, spec.tree.tokens[node])
            node = spec.tree.parents[node]
        prompt = ids(guard, text)[: -len(spec.tree.tokens)] + path
        given = stock.create_completion(
            prompt, max_tokens=1, temperature=0, logit_bias={str(id): 100.0 for id in first}
        )["choices"][0]["text"]
        best, second = sorted(first.values())[-1:-3:-1]
        if best - second > _NEAR:
            assert given == stock.detokenize([max(first, key=lambda id: first[id])]).decode()
            said.add(given)
    assert said


@pytest.mark.parametrize("quant", QUANTS)
def test_every_quant_is_written_and_read(quant: str, guards: Callable[[Case, str], Path]) -> None:
    case = _named("kanana-safeguard")
    exact, guard = opened(guards(case, "fp32")), opened(guards(case, quant))
    assert (guard.manifest.engine.name, guard.manifest.engine.quant) == ("llamacpp", quant)
    pairs = [
        (found, expected)
        for text in texts(20, seed=3)
        for found, expected in zip(*(_scores(each, text, None)[""][0].values() for each in (guard, exact)), strict=True)
    ]
    found, expected = np.array(pairs).T
    near = {"q8_0": 0.1, "q6_k": 0.15, "q5_k_m": 0.3}.get(quant, 0.02 if QUANTS[quant] is None else 0.5)
    assert np.linalg.norm(found - expected) < near * np.linalg.norm(expected - expected.mean())


def test_k_quants_are_llama_cpps_own_mix(guards: Callable[[Case, str], Path]) -> None:
    tensors = read_header(guards(_named("kanana-safeguard"), "q4_k_m") / "model.gguf").tensors
    kinds = {tensor.type for name, tensor in tensors.items() if len(tensor.shape) == 2}
    assert kinds == {_Q4_K, _Q6_K}
    assert {tensor.type for name, tensor in tensors.items() if len(tensor.shape) == 1} == {0}


def test_rows_a_quant_cannot_hold(tmp_path: Path) -> None:
    row = tiny(find("qwen3guard-gen-0.6b"))
    write_twin(row, tmp_path / "twin")
    with pytest.raises(InputError, match=r"q4_k_m cannot hold .* rows of 48 are not whole blocks of 32; choose f16"):
        export_guard(
            tmp_path / "twin",
            tmp_path / "guard",
            family="qwen3guard-gen",
            engine="llamacpp",
            quant="q4_k_m",
            gate=False,
        )
    # 96 is three blocks of 32, and no block of 256: llama.cpp puts types of the same size there.
    write_twin(replace(row, config=row.config | {"hidden_size": 96, "intermediate_size": 160}), tmp_path / "other")
    export_guard(
        tmp_path / "other", tmp_path / "guard", family="qwen3guard-gen", engine="gguf", quant="q4_k_m", gate=False
    )
    kinds = {tensor.type for tensor in read_header(tmp_path / "guard" / "model.gguf").tensors.values()}
    assert kinds.isdisjoint({1, 30, _Q4_K, _Q6_K})
    assert opened(tmp_path / "guard").check("안녕").tokens.run


def test_metadata(tmp_path: Path) -> None:
    row = tiny(find("llama-guard-3-8b"))
    write_twin(replace(row, config=row.config | {"rope_scaling": LLAMA3_ROPE}), tmp_path / "twin")
    (tmp_path / "twin" / "README.md").write_text("---\nlanguage: [ko]\nlicense: llama3.1\n---\n# Guard\n")
    export_guard(tmp_path / "twin", tmp_path / "guard", family="llama-guard-3", engine="llamacpp", quant="f32")
    header = read_header(tmp_path / "guard" / "model.gguf")
    config = json.loads((tmp_path / "twin" / "tokenizer_config.json").read_text())
    assert header.metadata["general.license"] == "llama3.1"
    assert header.metadata["tokenizer.chat_template"] == config["chat_template"]
    assert header.tokens[header.metadata["tokenizer.ggml.bos_token_id"]] == config["bos_token"]
    assert header.tensors["rope_freqs.weight"].shape == (row.config["head_dim"] // 2,)
    assert all(BLOCKS[tensor.type] == (1, 4) for tensor in header.tensors.values())


def test_weights_beyond_float16_are_refused(tmp_path: Path) -> None:
    row = tiny(find("kanana-safeguard-8b"))
    write_twin(row, tmp_path / "twin")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "twin", dtype=torch.bfloat16)
    model.model.layers[1].mlp.up_proj.weight.data[3, 5] = 1e6
    model.save_pretrained(tmp_path / "large")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "large" / name).write_bytes((tmp_path / "twin" / name).read_bytes())
    (tmp_path / "twin" / "model.safetensors.index.json").unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"f16 cannot hold model.layers.1.mlp.up_proj.weight: .*choose bf16"):
        export_guard(
            tmp_path / "large",
            tmp_path / "guard",
            family="kanana-safeguard",
            engine="llamacpp",
            quant="f16",
            gate=False,
        )
    assert not (tmp_path / "guard").exists()


def test_windows(tmp_path: Path) -> None:
    """Gemma 2 slides in the layers config.json says, on texts far longer than its window; Mistral gets no further."""
    row = wide(tiny(find("shieldgemma-2b")))
    layers = row.config["num_hidden_layers"]
    types = ["full_attention"] + ["sliding_attention"] * (layers - 1)
    write_twin(replace(row, config=row.config | {"sliding_window": 24, "layer_types": types}), tmp_path / "gemma")
    export_guard(tmp_path / "gemma", tmp_path / "slides", family="shieldgemma", engine="llamacpp", quant="f32")
    header, guard = read_header(tmp_path / "slides" / "model.gguf"), opened(tmp_path / "slides")
    assert header.metadata["gemma2.attention.sliding_window_pattern"].tolist() == [False] + [True] * (layers - 1)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "gemma", dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "gemma")
    text = "어제 본 영화 이야기를 하자. " * 12
    decoded = reference(Subject(_named("shieldgemma"), model, tokenizer, guard), text, None)
    for policy, walk in _scores(guard, text, None).items():
        for id, score in decoded[policy].scores[0].items():
            assert walk[0][id] == pytest.approx(score, abs=_NEAR)

    row = tiny(find("wildguard-7b"))
    write_twin(replace(row, config=row.config | {"sliding_window": 300}), tmp_path / "mistral")
    manifest = export_guard(
        tmp_path / "mistral", tmp_path / "short", family="wildguard", engine="llamacpp", quant="f32"
    )
    assert manifest.context == 300
    gemma = tiny(find("shieldgemma-2b"))
    write_twin(replace(gemma, config=gemma.config | {"query_pre_attn_scalar": 100}), tmp_path / "scaled")
    with pytest.raises(CheckpointError, match=r"attention scale of 0\.25 .* config\.json has 0\.1"):
        export_guard(tmp_path / "scaled", tmp_path / "none", family="shieldgemma", engine="llamacpp", quant="f32")
