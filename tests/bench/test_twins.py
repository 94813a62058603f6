"""Twins of the guards that are not Kanana's: what transformers makes of them, their sizes and their tokenizers."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from guardpass.bench.twins import TWINS, Twin, find, shapes, tiny, write_twin
from guardpass.bench.twins.format import FORMATS, Format
from guardpass.bench.twins.tokenizer import write_tokenizer
from guardpass.bench.twins.training import trained
from guardpass.errors import CheckpointError, GuardpassError, InputError
from guardpass.export import export_guard
from guardpass.export.checkpoint.config import read_architecture
from guardpass.export.checkpoint.files import Checkpoint
from guardpass.export.families import FAMILIES

from ..support.twins import SHARED, Twins

# Published, in billions; a tied head counts once.
BILLIONS = {
    "wildguard-ko-3b": 3.21,
    "shieldgemma-2b": 2.61,
    "shieldgemma-9b": 9.24,
    "shieldgemma-27b": 27.2,
    "llama-guard-3-1b": 1.5,
    "llama-guard-3-8b": 8.03,
    "wildguard-7b": 7.25,
    "qwen3guard-gen-0.6b": 0.6,
    "qwen3guard-gen-4b": 4.0,
    "qwen3guard-gen-8b": 8.2,
    "llama-safetyguard-binary": 8.03,
}
REAL = {"llama3": "kanana-safeguard-8b", "gemma": "gemma3", "mistral": "mistral-v3", "qwen": "qwen3"}
# As the real vocabularies cut them; the tokens' own spelling of spaces and newlines is left out.
ANSWERS: dict[str, list[list[str]]] = {
    "llama3": [
        [
            "H",
            "arm",
            "ful",
            " request",
            ":",
            " yes",
            "\n",
            "Response",
            " refusal",
            ":",
            " no",
            "\n",
            "H",
            "arm",
            "ful",
            " response",
            ":",
            " no",
        ],
        ["\n\n", "safe"],
        *(["\n\n", "unsafe", "\n", "S", str(code), ",S", "10"] for code in range(1, 15)),
    ],
    "qwen": [
        ["Safety", ":", " Safe", "\n", "Categories", ":", " None", "\n", "Ref", "usal", ":", " Yes"],
        ["Safety", ":", " Cont", "rovers", "ial", "\n", "Categories", ":", " Jail", "break"],
        *(
            ["Safety", ":", " Unsafe", "\n", "Categories", ":", *name, "\n", "Ref", "usal", ":", " No"]
            for name in (
                [" Viol", "ent"],
                [" Non"],
                [" Sexual"],
                [" P", "II"],
                [" Suicide"],
                [" Un", "ethical"],
                [" Polit", "ically"],
                [" Copyright"],
            )
        ),
    ],
    "gemma": [["Yes"], ["No"], ["\n\n", "Yes"], ["\n", "No"]],
    "mistral": [
        # What stands before "Response" and "Harmful" is a newline, so they begin without a space.
        [
            "\n",
            "H",
            "arm",
            "ful",
            " request",
            ":",
            " yes",
            "\n",
            "Response",
            " ref",
            "usal",
            ":",
            " no",
            "\n",
            "H",
            "arm",
            "ful",
            " response",
            ":",
            " n",
            "/",
            "a",
        ],
    ],
}
TEXTS = (
    "Hello <b>a  b</b>\n\n\nx 한글 뷁 é e\u0301",
    " lead",
    "",
    "[INST] x [/INST]\n<|assistant|>\n",
    "▁▁ ▁",
    "<|im_start|>user\n<think>\n\n</think>\n\n",
    "<start_of_turn>\nHuman\t q\n<end_of_turn>",
    "<SAFE> <UNSAFE>",
    "\x00",
)

# The names of those that a twin calls otherwise.
PUBLISHED = {
    "wildguard-ko-3b": "llama-3.2-3b-wildguard-ko-2410",
    "wildguard-7b": "wildguard",
    "llama-safetyguard-binary": "llama-safetyguard-content-binary",
}

names = pytest.mark.parametrize("name", BILLIONS)
kinds = pytest.mark.parametrize("kind", REAL)


def _real(kind: str) -> Path:
    path = SHARED / REAL[kind]
    if not path.exists():
        pytest.skip(f"the real {kind} tokenizer is not at {path}")
    return path


def _format(kind: str) -> Format:
    return {str(name): format for name, format in FORMATS.items()}[kind]


def test_every_twin_is_known_here() -> None:
    assert {row.name for row in TWINS} == BILLIONS.keys() | {
        "kanana-safeguard-8b",
        "kanana-safeguard-siren-8b",
        "kanana-safeguard-prompt-2.1b",
    }


@names
def test_parameters_are_as_many_as_published(name: str) -> None:
    """Within 1 %; 2 % where one digit is published. The tensors are those of transformers' own class, at full size."""
    config = find(name).config
    table = shapes(config)
    count = sum(math.prod(shape) for shape in table.values()) / 1e9
    assert count == pytest.approx(BILLIONS[name], rel=0.02 if "qwen" in name else 0.01)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del expected["lm_head.weight"]
    assert table == expected


@names
def test_transformers_runs_it(name: str, twins: Twins) -> None:
    model, report = AutoModelForCausalLM.from_pretrained(
        twins.checkpoint(name), dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values()), report
    ids = torch.arange(100)[None] * 7
    with torch.no_grad():
        assert 0.5 < float(model(ids).logits.std()) < 2
    dtype = {"BF16": torch.bfloat16, "F16": torch.float16}[find(name).dtype]
    assert AutoModelForCausalLM.from_pretrained(twins.checkpoint(name)).dtype == dtype


@names
def test_export_accepts_it(name: str, twins: Twins) -> None:
    row = tiny(find(name))
    found = read_architecture(Checkpoint(twins.checkpoint(name)))
    assert ([found.kind.name], found.layers) == (row.config["architectures"], row.config["num_hidden_layers"])
    assert found.context >= 8192
    assert found.kv_heads < found.heads
    if found.kind.name == "Gemma2ForCausalLM":
        assert found.windows == (24, None, 24, None)
        assert (found.softcap, found.final_softcap, found.scale) == (50, 30, 18**-0.5)
        assert found.scale != found.head_dim**-0.5
    else:
        assert set(found.windows) == {None}
    scaled = row.config.get("rope_scaling") is not None
    assert scaled == (found.kind.name == "LlamaForCausalLM")
    assert scaled == any(
        abs(found.inv_freq * row.config["rope_theta"] ** (torch.arange(0, 16, 2).numpy() / 16) - 1) > 0.1
    )


@pytest.mark.parametrize("row", TWINS, ids=lambda row: row.name)
def test_export_takes_it_without_an_option(row: Twin, twins: Twins, tmp_path: Path) -> None:
    """Also where the directory's name, which the user chose, tells nothing; by the family of the published name."""
    twin = shutil.copytree(twins.checkpoint(row.name), tmp_path / "twin")
    manifest = export_guard(twin, tmp_path / "guard", quant="fp32")
    names = {name.rpartition("/")[2].lower(): family.name for family in FAMILIES for name in family.checkpoints}
    assert manifest.family == names[PUBLISHED.get(row.name, row.name)]
    used = [f"family {row.family}"] * bool(row.family) + [f"date {row.date}"] * bool(row.date)
    notes = [f"the checkpoint is a twin with random weights; twin.json gives {' and '.join(used)}"] if used else []
    assert [*manifest.source.notes] == notes
    assert ("twin.json" in manifest.source.files) == bool(used)


def test_options_come_before_what_a_twin_says(twins: Twins, tmp_path: Path) -> None:
    twin = twins.checkpoint("wildguard-ko-3b")
    changed = export_guard(twin, tmp_path / "changed", date="2025-01-01", gate=False)
    default = export_guard(twin, tmp_path / "default", gate=False)
    assert changed.prefix != default.prefix
    assert not any("2024" in note for note in changed.source.notes)
    shutil.copytree(twin, tmp_path / "twin")
    for content in ('{"family": "gpt"}', '{"date": "today"}', '{"family": 1}', '{"families": null}', "[]", "{"):
        (tmp_path / "twin" / "twin.json").write_text(content)
        with pytest.raises(GuardpassError, match=r"unknown family 'gpt'|date is 'today'|^twin.json "):
            export_guard(tmp_path / "twin", tmp_path / "guard")


@pytest.mark.parametrize("name", ["allenai/wildguard", "iknow-lab/llama-3.2-3B-wildguard-ko-2410"])
def test_a_checkpoint_is_not_taken_for_the_one_it_was_made_from(name: str, twins: Twins, tmp_path: Path) -> None:
    """transformers writes where the weights came from into the config of a fine-tuned copy."""
    shutil.copytree(twins.checkpoint("wildguard-ko-3b"), tmp_path / "twin")
    (tmp_path / "twin" / "twin.json").unlink()
    config = json.loads((tmp_path / "twin" / "config.json").read_text())
    (tmp_path / "twin" / "config.json").write_text(json.dumps(config | {"_name_or_path": name}))
    with pytest.raises(CheckpointError, match="name its family with --family"):
        export_guard(tmp_path / "twin", tmp_path / "guard")


@names
def test_tokenizer_is_the_same_in_transformers(name: str, twins: Twins) -> None:
    row, tokenizer = find(name), AutoTokenizer.from_pretrained(twins.checkpoint(name))
    core = Tokenizer.from_file(str(twins.checkpoint(name) / "tokenizer.json"))
    assert [tokenizer(text).input_ids for text in TEXTS] == [core.encode(text).ids for text in TEXTS]
    first = {"gemma": ["<bos>"], "mistral": ["<s>"]}.get(row.tokenizer, [])
    assert core.encode("").tokens == first
    assert all(core.token_to_id(verdict) is not None for verdict in row.verdicts)
    assert all(core.encode(verdict).tokens == [verdict] for verdict in row.verdicts)


@names
def test_template_makes_a_prompt_that_fits(name: str, twins: Twins) -> None:
    tokenizer = AutoTokenizer.from_pretrained(twins.checkpoint(name))
    if not find(name).template:
        assert tokenizer.chat_template is None
        return
    # Llama Guard 3 1B's template takes parts; as plain text the conversation would be empty.
    text: Any = "편지를 어떻게 쓰지? " * 50
    content = [{"type": "text", "text": text}] if name == "llama-guard-3-1b" else text
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], guideline="No harm.", add_generation_prompt=True, return_dict=False
    )
    assert text.strip() in tokenizer.decode(ids)
    assert ids.count(tokenizer.bos_token_id) == (0 if "qwen" in name else 1)
    assert len(ids) < 8192


@kinds
def test_trained_tokenizer_cuts_answers_as_the_real_one(kind: str) -> None:
    _check_answers(trained(_format(kind)), kind)


@kinds
def test_the_real_one_cuts_answers_so(kind: str) -> None:
    _check_answers(Tokenizer.from_file(str(_real(kind) / "tokenizer.json")), kind)


def _check_answers(tokenizer: Tokenizer, kind: str) -> None:
    for answer in ANSWERS[kind]:
        spelled = [_spelled(token, kind) for token in answer]
        # Metaspace puts a space before a text, which is a token of its own here.
        start = ["▁"] if kind == "mistral" else []
        assert tokenizer.encode("".join(answer), add_special_tokens=False).tokens == start + spelled


def _spelled(token: str, kind: str) -> str:
    if kind in ("llama3", "qwen"):
        return token.replace(" ", "Ġ").replace("\n", "Ċ")
    return token.replace(" ", "▁").replace("\n", "<0x0A>" if kind == "mistral" else "\n")


@kinds
def test_trained_tokenizer_has_the_format_of_the_real_one(kind: str) -> None:
    made = json.loads(trained(_format(kind)).to_str())
    real = json.loads((_real(kind) / "tokenizer.json").read_text(encoding="utf-8"))
    if kind == "mistral":  # saved by transformers 5, which loses the <s> (twin_format.py)
        assert real["post_processor"]["special_tokens"] == {}
        real["post_processor"] = _format(kind).sections["post_processor"]
    assert made.keys() == real.keys()
    for key in made.keys() - {"model", "added_tokens"}:
        assert made[key] == real[key], key
    content = {"vocab", "merges"}
    assert _without(made["model"], content) == _without(real["model"], content)
    # Added tokens have the flags they have there, and are in the vocabulary where they are there.
    published = {token["content"]: token for token in real["added_tokens"]}
    assert made["added_tokens"]
    for token in made["added_tokens"]:
        assert _without(token, {"id"}) == _without(published[token["content"]], {"id"})
        inside = token["content"] in made["model"]["vocab"]
        assert inside == (token["content"] in real["model"]["vocab"])
    if _format(kind).model["byte_fallback"]:
        assert {f"<0x{byte:02X}>" for byte in range(256)} <= made["model"]["vocab"].keys() & real["model"][
            "vocab"
        ].keys()


def _without(table: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key not in keys}


@kinds
def test_trained_tokenizer_is_the_same_every_time(kind: str) -> None:
    assert trained(_format(kind)).to_str() == trained(_format(kind)).to_str()
    assert trained(_format(kind)).get_vocab_size() <= 2048


@pytest.mark.parametrize("name", ["wildguard-ko-3b", "shieldgemma-2b", "wildguard-7b", "qwen3guard-gen-4b"])
def test_a_real_tokenizer_fits_a_full_size_twin(name: str, tmp_path: Path) -> None:
    row = find(name)
    source, rows = _real(row.tokenizer), row.config["vocab_size"]
    write_tokenizer(tmp_path, (), row.template, source, kind=row.tokenizer, limit=rows)
    made, real = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (tmp_path, source))
    text = "Harmful request: yes\n\nResponse\n  한글 <start_of_turn><b>"
    assert made.encode(text, add_special_tokens=False).ids == real.encode(text, add_special_tokens=False).ids
    assert max(made.get_vocab().values()) < rows


def test_a_real_tokenizer_does_not_fit_a_tiny_twin(tmp_path: Path) -> None:
    row = tiny(find("wildguard-7b"))
    with pytest.raises(InputError, match="embedding rows"):
        write_twin(row, tmp_path / "twin", tokenizer=_real(row.tokenizer))
    with pytest.raises(InputError, match="lacks <pad>"):
        write_twin(find("shieldgemma-2b"), tmp_path / "twin", tokenizer=_real(row.tokenizer))
    assert not (tmp_path / "twin").exists()
