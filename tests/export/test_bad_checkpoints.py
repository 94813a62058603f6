"""Bad checkpoints: each ends in the right typed error, and nothing is written."""

import json
import shutil
import struct
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from guardpass import CheckpointError, InputError
from guardpass.export import export_guard
from guardpass.export.checkpoint.config import read_architecture
from guardpass.export.checkpoint.files import Checkpoint
from guardpass.format.manifest_io import loads

from ..support.broken import (
    DEEP,
    INDEX,
    SHARDS,
    SIREN,
    Change,
    broken_copy,
    cut,
    lie,
    poison,
    refuse_to_export,
    reindex,
    remove,
    set_json,
    write,
)
from ..support.helpers import files

broken = pytest.fixture(broken_copy)


def _adapter(source: Path, keep: Collection[str]) -> None:
    """Nothing but what peft saves, and what is to be kept."""
    for path in source.iterdir():
        if path.name not in keep:
            path.unlink()
    (source / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "x/y"}')
    (source / "adapter_model.safetensors").write_bytes(b"")


_Q = "model.layers.0.self_attn.q_proj.weight"
_FILES: list[tuple[str, Change, str]] = [
    ("no config", remove("config.json"), "cannot read config.json"),
    ("a missing shard", remove(SHARDS[1]), "is missing from"),
    ("an adapter alone", lambda source: _adapter(source, keep=()), "holds an adapter.*merge it into its base first"),
    ("an adapter with a config", lambda source: _adapter(source, keep=("config.json",)), "holds an adapter"),
    ("no weights", remove(INDEX), "neither model.safetensors nor"),
    ("an unlisted tensor", reindex(lambda m: m.pop(_Q)), "disagree"),
    ("a tensor listed in the wrong shard", reindex(lambda m: m.update({_Q: SHARDS[1]})), f"disagree.*{_Q}"),
    ("a tensor listed and not stored", reindex(lambda m: m.update(ghost=SHARDS[0])), "disagree.*ghost"),
    ("a path out of the checkpoint", reindex(lambda m: m.update(x="../x.safetensors")), "plain .safetensors name"),
    ("an absolute path", reindex(lambda m: m.update(x="/x.safetensors")), "plain .safetensors name"),
    ("another format", reindex(lambda m: m.update(x="x.bin")), "plain .safetensors name"),
    ("a number as shard", reindex(lambda m: m.update(x=1)), "no weight_map of file names"),  # type: ignore[call-overload]
    ("an index that is a list", write(INDEX, "[]"), "holds list, expected an object"),
    ("no weight_map", write(INDEX, "{}"), "no weight_map"),
    ("an empty shard", cut(SHARDS[0], 0), "not a valid safetensors"),
    ("a header cut off", cut(SHARDS[0], 100), "not a valid safetensors"),
    ("data cut off", cut(SHARDS[0], 20_000), "not a valid safetensors"),
    ("a header of 2^63 bytes", write(SHARDS[0], struct.pack("<Q", 1 << 63) + b"{}"), "not a valid safetensors"),
    ("a header that is a list", write(SHARDS[0], struct.pack("<Q", 2) + b"[]"), "not a valid safetensors"),
    ("a deep header", write(SHARDS[0], struct.pack("<Q", 100_000) + DEEP.encode()), "not a valid safetensors"),
    ("offsets beyond the file", lie(_Q, lambda t: t.update(data_offsets=[0, 1 << 40])), "not a valid safetensors"),
    ("offsets that overlap", lie(_Q, lambda t: t.update(data_offsets=[0, 8192])), "not a valid safetensors"),
    ("a shape of other size", lie(_Q, lambda t: t.update(shape=[64, 65])), "not a valid safetensors"),
    ("a negative shape", lie(_Q, lambda t: t.update(shape=[-64, -64])), "not a valid safetensors"),
    ("a shape that overflows", lie(_Q, lambda t: t.update(shape=[1 << 62, 64])), "not a valid safetensors"),
    ("a shape of equal size", lie(_Q, lambda t: t.update(shape=[32, 128])), r"q_proj.*\[32, 128\].*\[64, 64\]"),
    ("a dtype of equal size", lie(_Q, lambda t: t.update(dtype="I16")), "is I16, expected one of BF16"),
    ("a quantized dtype", lie(_Q, lambda t: t.update(dtype="F8_E4M3", shape=[128, 64])), "is F8_E4M3, expected"),
    ("an unknown dtype", lie(_Q, lambda t: t.update(dtype="X1")), "not a valid safetensors"),
    ("config that is no JSON", write("config.json", "{"), "config.json is not JSON"),
    ("config that is no UTF-8", write("config.json", b"\xff\xfe{"), "config.json is not UTF-8"),
    ("deep config", write("config.json", DEEP), "config.json is not JSON"),
    ("config that is a list", write("config.json", "[]"), "config.json holds list"),
    ("tokenizer that is no JSON", write("tokenizer.json", "{"), "tokenizer.json is not JSON"),
    ("deep tokenizer", write("tokenizer.json", DEEP), "tokenizer.json is not JSON"),
    ("no tokenizer", remove("tokenizer.json"), "cannot read tokenizer.json"),
    ("tokenizer of no model", write("tokenizer.json", "{}"), "model of type None"),
    ("tokenizer of another model", write("tokenizer.json", '{"model": {"type": "WordLevel"}}'), "type 'WordLevel'"),
    ("tokenizer without vocabulary", write("tokenizer.json", '{"model": {"type": "BPE"}}'), "tokenizer.json cannot"),
    (
        "tokenizer with strange merges",
        write(
            "tokenizer.json", '{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}'
        ),
        "tokenizer.json cannot",
    ),
    ("deep tokenizer config", write("tokenizer_config.json", DEEP), "tokenizer_config.json is not JSON"),
    ("no tokenizer config", remove("tokenizer_config.json"), "cannot read tokenizer_config.json"),
    ("added tokens in a list", set_json("tokenizer_config.json", added_tokens_decoder=[1]), "is not an object"),
    ("an added token as text", set_json("tokenizer_config.json", added_tokens_decoder={"1": "x"}), "has the entry"),
    (
        "an added token that moves",
        set_json("tokenizer_config.json", added_tokens_decoder={"7": {"content": "a"}}),
        "contradicts itself",
    ),
    (
        "an added token with other flags",
        set_json("tokenizer_config.json", added_tokens_decoder={"1": {"content": "<SAFE>", "lstrip": "yes"}}),
        "added_tokens_decoder",
    ),
    (
        "an added token that is no Unicode",
        set_json("tokenizer_config.json", added_tokens_decoder={"1": {"content": "\ud800"}}),
        "added_tokens_decoder",
    ),
    (
        "a special token nobody adds",
        set_json("tokenizer_config.json", additional_special_tokens=["<human>"]),
        "special tokens that tokenizer.json does not add: .'<human>'",
    ),
]


@pytest.mark.parametrize(("change", "says"), [pytest.param(*row[1:], id=row[0]) for row in _FILES])
def test_bad_files(broken: Path, tmp_path: Path, change: Change, says: str) -> None:
    change(broken)
    refuse_to_export(broken, tmp_path / "out" / "guard", CheckpointError, says)


_LAYERS = [
    (0, "input_layernorm"),
    (0, "self_attn.q_proj"),
    (1, "self_attn.k_proj"),
    (2, "self_attn.v_proj"),
    (2, "self_attn.o_proj"),
    (2, "post_attention_layernorm"),
    (1, "mlp.gate_proj"),
    (2, "mlp.up_proj"),
    (2, "mlp.down_proj"),
]
_POISONED = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
_POISONED += [f"model.layers.{layer}.{name}.weight" for layer, name in _LAYERS]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=["NaN", "Inf", "-Inf"])
@pytest.mark.parametrize("name", _POISONED)
def test_weights_that_are_not_finite(broken: Path, tmp_path: Path, name: str, value: float) -> None:
    """Every kind of tensor; of the head only the verdict rows are used, so one of those."""
    poison(name, value, row=0 if "norm" in name else 628 if name == "lm_head.weight" else 3)(broken)
    refuse_to_export(broken, tmp_path / "out" / "guard", CheckpointError, f"{name} in .* not finite")


@pytest.mark.parametrize("names", [["self_attn.q_proj", "self_attn.k_proj"], ["mlp.gate_proj", "mlp.up_proj"]])
def test_finite_weights_that_overflow(broken: Path, tmp_path: Path, names: list[str]) -> None:
    """Quantized operators may read what overflows inside as zero, so it has to be found before there is a guard."""
    for name in names:
        for row in range(32):
            poison(f"model.layers.2.{name}.weight", 3e38, row=row)(broken)
    refuse_to_export(broken, tmp_path / "out" / "guard", CheckpointError, "overflow float32")


def test_biases_are_refused(broken: Path, tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.q_proj"

    def rename(header: dict[str, Any]) -> None:
        header[f"{name}.bias"] = header.pop(f"{name}.weight")

    lie("", rename)(broken)
    reindex(lambda m: m.update({f"{name}.bias": m.pop(f"{name}.weight")}))(broken)
    refuse_to_export(
        broken, tmp_path / "out" / "guard", CheckpointError, "weight is missing; .*bias is not part of this"
    )


def _renamed(source: Path, new: Callable[[str], str]) -> None:
    """Every tensor under another name."""
    for number in (0, 1):
        for old in [name for name, shard in _listed(source).items() if shard == SHARDS[number]]:
            lie("", lambda header, old=old: header.update({new(old): header.pop(old)}), shard=number)(source)  # type: ignore[misc]
    reindex(lambda m: [m.update({new(old): m.pop(old)}) for old in [*m]])(source)


def _listed(source: Path) -> dict[str, str]:
    listed: dict[str, str] = json.loads((source / INDEX).read_text())["weight_map"]
    return listed


def _stored(source: Path, name: str, values: np.ndarray) -> None:
    """One more tensor, in a shard of its own."""
    save_file({name: values}, source / "more.safetensors")
    reindex(lambda m: m.update({name: "more.safetensors"}))(source)


@pytest.mark.parametrize(
    ("prefix", "says"),
    [
        ("base_model.model.", "begin with 'base_model.model.model.', expected 'model.': .*of PEFT: merge the adapter"),
        ("language_model.", "begin with 'language_model.model.', .*several parts: load its text model"),
        ("module.", "begin with 'module.model.', .*save the model inside it"),
        ("wrapped.", "begin with 'wrapped.model.', .*save_pretrained .or take 'wrapped.' off"),
    ],
)
def test_a_prefix_of_every_name_is_one_sentence(broken: Path, tmp_path: Path, prefix: str, says: str) -> None:
    _renamed(broken, lambda name: prefix + name)
    refuse_to_export(broken, tmp_path / "out" / "guard", CheckpointError, says)


@pytest.mark.parametrize(
    ("new", "says"),
    [
        (
            lambda name: name.replace("model.", "model.language_model."),
            "begin with 'model.language_model.'.*several parts",
        ),
        (lambda name: name.removeprefix("model."), "begin with '', expected 'model.': .*without the model around"),
        (lambda name: name.replace("q_proj.", "q_proj.base_layer."), "holds an adapter beside its weights .*merge it"),
    ],
    ids=["part of a whole", "the decoder alone", "lora"],
)
def test_names_of_another_class_are_one_sentence(
    broken: Path, tmp_path: Path, new: Callable[[str], str], says: str
) -> None:
    _renamed(broken, new)
    refuse_to_export(broken, tmp_path / "out" / "guard", CheckpointError, says)


@pytest.mark.parametrize("name", ["weight_scale", "weight_scale_inv", "input_scale", "weight.absmax", "SCB", "g_idx"])
def test_scales_of_quantized_weights_are_one_sentence(broken: Path, tmp_path: Path, name: str) -> None:
    """Where config.json no longer says that they are quantized."""
    _stored(broken, f"model.layers.0.self_attn.q_proj.{name}", np.ones(4, np.float32))
    says = "holds the scales of quantized weights .*export the original checkpoint"
    refuse_to_export(broken, tmp_path / "out" / "guard", CheckpointError, says)


_INV_FREQ = "model.layers.0.self_attn.rotary_emb.inv_freq"


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_stored_rotary_table_repeats_the_config_or_is_refused(broken: Path, tmp_path: Path, dtype: Any) -> None:
    """transformers does not look at it, and nobody can say which of the two the weights were trained with."""
    table = LlamaRotaryEmbedding(AutoConfig.from_pretrained(broken)).inv_freq.numpy()
    _stored(broken, _INV_FREQ, table.astype(dtype))
    read_architecture(Checkpoint(broken))
    _stored(broken, _INV_FREQ, (table * np.linspace(1, 0.9, table.size)).astype(dtype))
    says = f"{_INV_FREQ} holds other rotary frequencies than the rope parameters of config.json"
    refuse_to_export(broken, tmp_path / "out" / "guard", CheckpointError, says)


def test_what_lies_beside_the_weights_is_reported(broken: Path, tmp_path: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors", "pytorch_model.bin", "training_args.bin", "a.md"):
        (broken / name).write_text("{}")
    (broken / "generation_config.json").write_text('{"repetition_penalty": 1.3, "do_sample": true}')
    manifest = export_guard(broken, tmp_path / "guard", quant="fp32")
    adapter, weights, generation = manifest.source.notes
    assert "is not applied ('adapter_config.json', 'adapter_model.safetensors'); transformers applies it" in adapter
    assert weights.endswith(f"lie beside '{SHARDS[0]}', '{SHARDS[1]}': 'pytorch_model.bin'")
    assert generation.startswith(
        "generation_config.json changes the scores of generated tokens (repetition_penalty 1.3)"
    )
    assert loads((tmp_path / "guard" / "guard.json").read_bytes()).source.notes == manifest.source.notes


def test_a_plain_checkpoint_has_nothing_to_report(exported: Callable[..., Path]) -> None:
    assert loads((exported(SIREN) / "guard.json").read_bytes()).source.notes == ()


def test_a_missing_head_is_refused(broken: Path, tmp_path: Path) -> None:
    lie("", lambda header: header.update(head=header.pop("lm_head.weight")), shard=1)(broken)
    reindex(lambda m: m.update(head=m.pop("lm_head.weight")))(broken)
    refuse_to_export(broken, tmp_path / "out" / "guard", CheckpointError, "lm_head.weight is missing")


def test_a_failed_export_leaves_the_old_guard(broken: Path, exported: Callable[..., Path], tmp_path: Path) -> None:
    out = Path(shutil.copytree(exported(SIREN), tmp_path / "out" / "guard"))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    poison("model.norm.weight", np.nan, row=0)(broken)
    refuse_to_export(broken, out, CheckpointError, "not finite", force=True)
    refuse_to_export(broken, out, InputError, "exists")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_force_replaces_guards_only(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """A mistyped --out must not cost anyone a folder."""
    out = tmp_path / "out"
    (out / "thesis").mkdir(parents=True)
    (out / "notes").write_text("")
    (out / "link").symlink_to(out / "thesis")
    (out / "dangling").symlink_to(out / "nowhere")
    for name in ("thesis", "notes", "link", "dangling"):
        refuse_to_export(checkpoint(SIREN), out / name, InputError, "is no guard", force=True)
    refuse_to_export(checkpoint(SIREN), checkpoint(SIREN), InputError, "is no guard", force=True)
    with pytest.raises(InputError, match="notes is not a folder"):
        export_guard(checkpoint(SIREN), out / "notes" / "guard")
    assert files(out) == ["dangling", "link", "notes", "thesis"]


@pytest.mark.parametrize("source", ["absent", "file"])
def test_no_directory(tmp_path: Path, source: str) -> None:
    (tmp_path / "file").write_text("")
    refuse_to_export(tmp_path / source, tmp_path / "out" / "guard", CheckpointError, "is not a directory")
