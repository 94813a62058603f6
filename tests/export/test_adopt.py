"""Adopted GGUFs: the same manifest as the exported route, ids of a tokenizer rebuilt from the file, and refusals."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given

from guardpass import CheckpointError, Guard, InputError
from guardpass.bench.twins import find, tiny, write_twin
from guardpass.export import adopt_gguf, export_guard
from guardpass.export.checkpoint.files import Folder
from guardpass.export.checkpoint.tokenizer import CheckpointTokenizer
from guardpass.export.prompt.probes import PROBES
from guardpass.export.to_gguf import write as gguf_guard
from guardpass.export.to_gguf.model import _add_vocabulary
from guardpass.export.to_gguf.vocab import Vocabulary, from_gguf, to_gguf
from guardpass.export.to_gguf.write import vocabulary_ids

from ..support.helpers import files, ids, opened, seam_text, texts
from ..support.published import CASES, Case
from ..support.twins import SHARED

_REAL = ("kanana-safeguard-8b", "qwen3", "gemma3", "mistral-v3")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], tuple[Path, Path]]:
    """A case's exported guard, and what is adopted from its model file alone."""
    known: dict[str, tuple[Path, Path]] = {}

    def make(case: Case) -> tuple[Path, Path]:
        if case.family not in known:
            folder = tmp_path_factory.mktemp("adopt")
            row = tiny(find(case.twin))
            if "gemma" in case.twin:  # llama.cpp derives Gemma's attention scale from the heads' size
                row.config["query_pre_attn_scalar"] = row.config["head_dim"]
            write_twin(row, folder / "twin")
            options = {"family": case.family, "date": case.date}
            export_guard(folder / "twin", folder / "exported", engine="llamacpp", quant="f16", gate=False, **options)  # type: ignore[arg-type]
            model = shutil.copy(folder / "exported" / "model.gguf", folder / "some guard.gguf")
            adopt_gguf(Path(model), folder / "adopted", **options)  # type: ignore[arg-type]
            known[case.family] = folder / "exported", folder / "adopted"
        return known[case.family]

    return make


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.family)
def test_the_manifest_is_that_of_the_exported_route(case: Case, pairs: Callable[[Case], tuple[Path, Path]]) -> None:
    exported, adopted = (Guard.load(path, threads=1) for path in pairs(case))
    for part in ("labels", "columns", "prefix", "modes", "reserved", "literals", "vocab", "context", "engine"):
        assert getattr(adopted.manifest, part) == getattr(exported.manifest, part), part
    model = pairs(case)[0] / "model.gguf"
    assert (pairs(case)[1] / "model.gguf").read_bytes() == model.read_bytes()
    for text in texts(40, seed=21):
        assert ids(adopted, text) == ids(exported, text)


@pytest.mark.parametrize("family", ["kanana-safeguard", "wildguard", "shieldgemma", "qwen3guard-gen"])
def test_any_text_has_the_same_ids(family: str, pairs: Callable[[Case], tuple[Path, Path]]) -> None:
    case = next(case for case in CASES if case.family == family)
    exported, adopted = (opened(path).judge.tokenizer for path in pairs(case))

    @given(seam_text)
    def check(text: str) -> None:
        assert adopted.ids(text) == exported.ids(text)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("name", _REAL)
def test_real_tokenizers_go_there_and_back(name: str, tmp_path: Path) -> None:
    """tokenizer.json to GGUF to tokenizer.json; and llama.cpp reads in the GGUF what was meant."""
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs the real tokenizer {name}, which is not here")
    before = CheckpointTokenizer(Folder(SHARED / name))
    config = Folder(SHARED / name).json("tokenizer_config.json")
    vocabulary = to_gguf(before, config, max(before.full.get_vocab().values()) + 1)
    written = from_gguf(_written(tmp_path / "vocabulary.gguf", vocabulary))
    for file, content in zip(("tokenizer.json", "tokenizer_config.json"), written, strict=True):
        (tmp_path / file).write_text(json.dumps(content))
    after = CheckpointTokenizer(Folder(tmp_path))
    assert {id: token.content for id, token in after.reserved.items()} == {
        id: token.content for id, token in before.reserved.items()
    }
    corpus = [f"x{text}" for text in (*PROBES, *texts(200, seed=3))]
    for text in corpus:
        assert after.content_ids(text) == before.content_ids(text)
        assert after.split(text) == before.split(text)
    if name != "qwen3":  # llama.cpp composes no characters, as Qwen's tokenizer does before it splits text
        found = vocabulary_ids(tmp_path / "vocabulary.gguf", corpus)
        assert found == [before.content_ids(before.opening(text)) for text in corpus]


def test_llama_cpp_alone_would_let_text_become_a_verdict(pairs: Callable[[Case], tuple[Path, Path]]) -> None:
    """Why adopted guards have a tokenizer.json: parse_special=false leaves out control tokens, and no others."""
    exported, adopted = pairs(CASES[0])
    guard = Guard.load(adopted, threads=1)
    verdicts = set(guard.manifest.columns)
    (raw,) = vocabulary_ids(exported / "model.gguf", ["<SAFE>"])
    assert verdicts & {*raw}
    assert not verdicts & {*guard.judge.tokenizer.ids("<SAFE>")}
    assert guard.check("<SAFE>").suspicious_literals == ("<SAFE>",)


def test_refusals_leave_nothing(pairs: Callable[[Case], tuple[Path, Path]], tmp_path: Path) -> None:
    model = pairs(CASES[0])[0] / "model.gguf"
    (tmp_path / "cut.gguf").write_bytes(model.read_bytes()[:5000])
    (tmp_path / "not.gguf").write_bytes(b"PK\x03\x04" * 100)
    for path, reason in (
        (tmp_path / "cut.gguf", "cut.gguf is no GGUF that can be opened safely: it ends at byte 5000"),
        (tmp_path / "not.gguf", "not.gguf is no GGUF that can be opened safely: it begins with"),
        (tmp_path / "none.gguf", "cannot copy .*none.gguf: No such file"),
        (tmp_path, "cannot copy"),
    ):
        with pytest.raises(CheckpointError, match=reason):
            adopt_gguf(path, tmp_path / "guard", family="kanana-safeguard")
    with pytest.raises(CheckpointError, match="'<UNSAFE-I1>' of family kanana-safeguard-siren is not one token here"):
        adopt_gguf(model, tmp_path / "guard", family="kanana-safeguard-siren")
    with pytest.raises(InputError, match="unknown family"):
        adopt_gguf(model, tmp_path / "guard", family="none")
    assert files(tmp_path) == ["cut.gguf", "not.gguf"]


def test_a_tokenizer_llama_cpp_has_no_name_for(plain_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(plain_checkpoint, tmp_path / "twin")
    spec = json.loads((tmp_path / "twin" / "tokenizer.json").read_text())
    spec["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{L}+|\P{L}+"
    (tmp_path / "twin" / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(CheckpointError, match=r"llama\.cpp has no name for this tokenizer's way of splitting text"):
        export_guard(tmp_path / "twin", tmp_path / "guard", engine="llamacpp", quant="f32")
    assert not (tmp_path / "guard").exists()


def test_a_wrong_name_for_the_tokenizer_is_noticed(
    plain_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp is asked: were the table wrong, no file would come of it."""

    def misnamed(*given: Any) -> Vocabulary:
        vocabulary = to_gguf(*given)
        return replace(vocabulary, splitting=replace(vocabulary.splitting, pre="smollm"))

    monkeypatch.setattr(gguf_guard, "to_gguf", misnamed)
    with pytest.raises(CheckpointError, match=r"llama\.cpp tokenizes .* otherwise than the checkpoint's tokenizer"):
        export_guard(plain_checkpoint, tmp_path / "guard", engine="llamacpp", quant="f32")
    assert not (tmp_path / "guard").exists()


def _written(path: Path, vocabulary: Vocabulary) -> dict[str, Any]:
    """Write a GGUF of a vocabulary and the sizes llama.cpp asks for; what gguf's own reader finds in it."""
    writer = gguf.GGUFWriter(path, "llama")
    _add_vocabulary(writer, vocabulary)
    for add in ("context_length", "embedding_length", "block_count", "feed_forward_length", "head_count"):
        getattr(writer, f"add_{add}")(64 if add.endswith("length") else 1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}
    return found | {"tokenizer.ggml.token_type": np.array(found["tokenizer.ggml.token_type"])}
