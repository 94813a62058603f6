"""GGUF headers: read as the gguf package reads them, or refused before llama.cpp sees what would end the process."""

import itertools
import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGUFValueType as Type
from gguf.gguf_writer import GGUFValue
from hypothesis import given
from hypothesis import strategies as st

from guardpass import Guard
from guardpass.bench.twins import find, tiny, write_twin
from guardpass.export import export_guard
from guardpass.format.gguf_header import read_header

from ..support.broken import refuse_to_load, seal

_NAMES = ("llama", "gemma2", "qwen3", "spm")
_NAN, _HUGE = float("nan"), 1 << 63

Keys = Mapping[str, tuple[Any, ...] | None]  # None removes a key
NOTHING: Mapping[str, Any] = MappingProxyType({})


def _write(path: Path, name: str = "llama", keys: Keys = NOTHING, tensors: Mapping[str, Any] = NOTHING) -> Path:
    """A valid model of a few kilobytes, but for keys, as (value, type, type of an array's items), and tensors.

    name: of an architecture, with byte-level BPE; "spm" is Llama with SentencePiece.
    """
    spm, name = name == "spm", "llama" if name == "spm" else name
    tokens = [f"tok{n:x}" for n in range(16)]
    if spm:
        tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "a"]
    writer = gguf.GGUFWriter(path, name)
    for size, value in {
        "context_length": 64,
        "embedding_length": 4,
        "block_count": 1,
        "feed_forward_length": 8,
        "attention.head_count": 2,
        "attention.head_count_kv": 1,
        "attention.key_length": 2,
        "attention.value_length": 2,
    }.items():
        writer.add_uint32(f"{name}.{size}", value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama" if spm else "gpt2")
    writer.add_tokenizer_pre("default" if spm else "llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_bos_token_id(1)
    writer.add_bool("general.thing", True)
    writer.add_bool("general.other", True)
    if spm:
        writer.add_token_scores([0.0] * len(tokens))
    else:
        writer.add_token_merges(["t o", "to k"])
    for key, value in keys.items():
        writer.kv_data[0].pop(key, None)
        if value is not None:
            writer.kv_data[0][key] = GGUFValue(*value)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (len(tokens), 4),
        "output_norm": (4,),
        "blk.0.attn_norm": (4,),
        "blk.0.attn_q": (4, 4),
        "blk.0.attn_k": (2, 4),
        "blk.0.attn_v": (2, 4),
        "blk.0.attn_output": (4, 4),
        "blk.0.ffn_norm": (4,),
        "blk.0.ffn_gate": (8, 4),
        "blk.0.ffn_up": (8, 4),
    }
    shapes |= {"blk.0.post_attention_norm": (4,), "blk.0.post_ffw_norm": (4,)} if name == "gemma2" else {}
    shapes |= {"blk.0.attn_q_norm": (2,), "blk.0.attn_k_norm": (2,)} if name == "qwen3" else {}
    shapes["blk.0.ffn_down"] = (4, 8)  # the last, so that the file does not end in padding
    ones = {f"{key}.weight": np.ones(shape, np.float32) for key, shape in shapes.items()}
    for tensor, array in {**ones, **tensors}.items():
        if array is not None:
            writer.add_tensor(tensor, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(tmp_path_factory.mktemp("gguf") / "small.gguf")


def _export(folder: Path, twin: str, quant: str) -> Path:
    write_twin(tiny(find(twin)), folder / "twin")
    export_guard(
        folder / "twin",
        folder / "guard",
        family="wildguard" * (twin == "wildguard-7b") or None,
        engine="llamacpp",
        quant=quant,
    )
    return folder / "guard"


def _agrees(path: Path) -> None:
    header, known = read_header(path), gguf.GGUFReader(path)
    fields = {key: field for key, field in known.fields.items() if not key.startswith("GGUF.")}
    assert list(header.metadata) == list(fields)
    for key, field in fields.items():
        found, expected = header.metadata[key], field.contents()
        assert list(found) == expected if isinstance(expected, list) else found == expected, key
    assert {name: (tensor.shape, tensor.type, tensor.offset) for name, tensor in header.tensors.items()} == {
        tensor.name: (tuple(tensor.shape.tolist()), tensor.tensor_type, tensor.data_offset - known.data_offset)
        for tensor in known.tensors
    }
    assert header.architecture == fields["general.architecture"].contents()
    assert header.tokens == fields["tokenizer.ggml.tokens"].contents()


@pytest.mark.llamacpp
@pytest.mark.parametrize("quant", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("twin", ["kanana-safeguard-8b", "wildguard-7b"])
def test_exported_guards_read_as_gguf_reads_them(tmp_path: Path, twin: str, quant: str) -> None:
    _agrees(_export(tmp_path, twin, quant) / "model.gguf")


@pytest.mark.parametrize("name", _NAMES)
def test_small_files_read_as_gguf_reads_them(tmp_path: Path, name: str) -> None:
    every = {f"x.{kind.name}": (1, kind) for kind in Type if kind not in (Type.STRING, Type.ARRAY)}
    _agrees(_write(tmp_path / "model.gguf", name, {**every, "x.of": ([-1, 2], Type.ARRAY, Type.INT16)}))


def test_every_truncation(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(small.read_bytes())
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(ValueError, match=r"ends at byte|cannot mmap an empty file"):
            read_header(path)
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ValueError, match="cannot be read"):
            read_header(path)


def _put(after: bytes, skip: int, format: str, value: int) -> Callable[[bytes], bytes]:
    """Overwrite a number that lies `skip` bytes behind a name."""

    def change(data: bytes) -> bytes:
        at = data.index(after) + len(after) + skip
        return data[:at] + struct.pack(format, value) + data[at + struct.calcsize(format) :]

    return change


def _swap(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data.replace(old, new, 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_swap(b"GGUF", b"GGML"), "begins with b'GGML'"),
        (_put(b"GGUF", 0, "<I", 1), "version 1,"),
        (_put(b"GGUF", 0, ">I", 3), "version 50331648,"),
        (_put(b"GGUF", 4, "<Q", _HUGE), f"{_HUGE} tensors"),
        (_put(b"GGUF", 12, "<Q", _HUGE), f"{_HUGE} keys"),
        (_put(b"GGUF", 20, "<Q", _HUGE), f"a text of {_HUGE} bytes"),
        (_put(b"ggml.tokens", 8, "<Q", _HUGE), f"{_HUGE} items in an array"),
        (_put(b"ggml.tokens", 8, "<Q", 1 << 22), f"{1 << 22} items in an array"),
        (_put(b"ggml.tokens", 16, "<Q", 1 << 20), "ends at byte"),
        (_put(b"ggml.tokens", 4, "<I", 9), "an array of type 9"),
        (_put(b"ggml.tokens", 4, "<I", 13), "an array of type 13"),
        (_put(b"ggml.tokens", 0, "<I", 13), "a value of type 13"),
        (_swap(b"llama.embedding_length", b"llama.embedding length"), "a key 'llama.embedding length'"),
        (_swap(b"attention.head_count_kv", b"attention.layer_norm_xx"), "llama.attention.layer_norm_xx"),
        (_swap(b"token_type", b"token_list"), "tokenizer.ggml.token_type"),
        (_swap(b"general.other", b"general.thing"), "the key general.thing comes twice"),
        (_swap(b"tok3", b"tok\xff"), "not UTF-8"),
        (_swap(b"tok3", b"tok\0"), "NUL"),
        (_swap(b"blk.0.attn_k", b"blk.0.attn_v"), "blk.0.attn_v.weight comes twice"),
        (_swap(b"blk.0.attn_k", b"blk.1.attn_k"), "lacks blk.0.attn_k.weight"),
        (_put(b"embd.weight", 0, "<I", 0), "token_embd.weight has 0 dimensions"),
        (_put(b"embd.weight", 0, "<I", 5), "token_embd.weight has 5 dimensions"),
        (_put(b"embd.weight", 4, "<Q", 0), r"token_embd.weight has the shape \(0, 16\)"),
        (_put(b"embd.weight", 12, "<Q", _HUGE), rf"token_embd.weight has the shape \(4, {_HUGE}\)"),
        (_put(b"embd.weight", 12, "<Q", (1 << 32) - 1), "token_embd.weight ends at byte 687"),
        (_put(b"embd.weight", 20, "<I", 4), "token_embd.weight has the type 4"),
        (_put(b"embd.weight", 20, "<I", 99), "token_embd.weight has the type 99"),
        (_put(b"embd.weight", 20, "<I", 8), r"the shape \(4, 16\), expected positive sides, of whole blocks of 32"),
        (_put(b"embd.weight", 24, "<Q", 32), "token_embd.weight begins at 32 .* expected 0"),
        (_put(b"output_norm.weight", 12, "<I", 1), r"output_norm.weight has the type 1, expected one of \[0\]"),
        (_put(b"output_norm.weight", 16, "<Q", 0), "output_norm.weight begins at 0 .* expected 256"),
        (_put(b"output_norm.weight", 16, "<Q", _HUGE), f"output_norm.weight begins at {_HUGE}"),
    ],
)
def test_bytes_that_are_no_header(small: Path, tmp_path: Path, change: Callable[[bytes], bytes], says: str) -> None:
    (tmp_path / "bad.gguf").write_bytes(change(small.read_bytes()))
    with pytest.raises(ValueError, match=says):
        read_header(tmp_path / "bad.gguf")


def _number(key: str, value: int) -> dict[str, tuple[Any, ...]]:
    return {key: (value, Type.UINT32)}


def _texts(key: str, *values: str) -> dict[str, tuple[Any, ...]]:
    return {key: (list(values), Type.ARRAY, Type.STRING)}


def _array(key: str, kind: Type, *values: float) -> dict[str, tuple[Any, ...]]:
    return {key: (list(values), Type.ARRAY, kind)}


_TOKENS, _TYPES, _SCORES = (f"tokenizer.ggml.{key}" for key in ("tokens", "token_type", "scores"))
_WORDS = [f"tok{n}" for n in range(260)]
_EPSILON, _WINDOWS = "llama.attention.layer_norm_rms_epsilon", "gemma2.attention.sliding_window_pattern"
_KEYS: list[tuple[str, Keys, str]] = [
    *(("llama", _number("general.alignment", value), f"alignment is {value},") for value in (0, 3, 8, 1 << 31)),
    ("llama", {"general.architecture": ("mamba", Type.STRING)}, "architecture is 'mamba'"),
    ("llama", _array("general.architecture", Type.INT8, 1, 2), "architecture is array"),
    ("llama", _array("general.name", Type.INT8, 1, 2), "general.name is array"),
    ("llama", {"general.file_type": ("f32", Type.STRING)}, "general.file_type is 'f32'"),
    *(
        ("llama", _number(f"llama.{key}", value), f"llama.{key} is {value},")
        for key, value in [
            ("context_length", 0),
            ("block_count", 0),
            ("block_count", 10**6),
            ("attention.head_count", 0),
        ]
    ),
    ("llama", {"llama.block_count": None}, "llama.block_count is None"),
    ("llama", {"llama.block_count": ("1", Type.STRING)}, "llama.block_count is '1'"),
    ("llama", _array("llama.attention.head_count", Type.UINT32, 2), r"head_count is array\(\[2\]"),
    ("llama", _number("llama.block_count", 2), "lacks blk.1.attn_k.weight, and 8 more"),
    ("llama", _number("llama.feed_forward_length", 16), r"ffn_gate.weight has the shape \(4, 8\), expected \(4, 16\)"),
    ("llama", _number("llama.attention.head_count", 3) | _number("llama.attention.head_count_kv", 2), "3 heads and 2"),
    ("llama", _number("llama.attention.key_length", 3) | _number("llama.attention.value_length", 3), "3 in values"),
    ("llama", _number("llama.attention.value_length", 4), "4 in values"),
    ("gemma2", _number("gemma2.rope.dimension_count", 4), "4 rotated"),
    ("llama", {"llama.rope.scaling.type": ("x", Type.STRING)}, "rope.scaling.type is 'x'"),
    *(("llama", {_EPSILON: (value, Type.FLOAT32)}, f"epsilon is {value}") for value in (-1.0, _NAN)),
    *(
        ("llama", _number(f"llama.{key}", 2), f"it has llama.{key}")
        for key in [
            "expert_count",
            "expert_used_count",
            "expert_group_count",
            "nextn_predict_layers",
            "attention.causal",
        ]
    ),
    ("gemma2", _number(_WINDOWS, 1), "expected a truth for each layer"),
    ("gemma2", _array(_WINDOWS, Type.BOOL, False), "expected a truth for each layer"),
    ("gemma2", _array(_WINDOWS, Type.BOOL, True, True), "expected a truth for each layer"),
    ("llama", {"split.count": (2, Type.UINT16)}, "one part of several"),
    ("llama", _array("split.count", Type.UINT16, 0, 0), "split.count is array"),
    ("llama", {"tokenizer.ggml.model": ("bert", Type.STRING)}, "tokenizer is 'bert'"),
    ("llama", {_TOKENS: None}, "no tokens"),
    ("llama", _texts(_TOKENS, "tok0", *_WORDS[:15]), "two of its tokens are alike"),
    ("llama", _texts(_TOKENS, "", *_WORDS[:15]), "one is empty"),
    (
        "llama",
        _texts(_TOKENS, *_WORDS[:15]) | _array(_TYPES, Type.INT32, *[1] * 15),
        r"token_embd.weight has the shape \(4, 16\), expected \(4, 15\)",
    ),
    ("llama", _array(_TYPES, Type.INT32, *[1] * 15), "token_type: expected 16 of int32"),
    ("llama", _array(_TYPES, Type.INT8, *[1] * 16), "token_type: expected 16 of int32"),
    ("llama", _texts("tokenizer.ggml.merges", "a b", "ab"), "merges: expected pairs"),
    ("llama", {"tokenizer.ggml.merges": None}, "merges: expected some"),
    ("llama", _number("tokenizer.ggml.bos_token_id", 16), "bos_token_id is 16, expected a token id below 16"),
    ("llama", {"tokenizer.ggml.bos_token_id": (-1, Type.INT32)}, "bos_token_id is -1"),
    ("spm", {_SCORES: None}, "scores: expected 260 of float32"),
    ("spm", _array(_SCORES, Type.FLOAT32, *[_NAN] * 260), "scores holds values that are not finite"),
    ("spm", _texts(_TOKENS, *_WORDS), "lacks some of the 256 byte tokens"),
]


@pytest.mark.parametrize(("name", "keys", "says"), _KEYS)
def test_keys_that_are_no_plain_decoder(tmp_path: Path, name: str, keys: Keys, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_header(_write(tmp_path / "bad.gguf", name, keys))


@pytest.mark.parametrize(
    ("name", "tensor", "shape", "says"),
    [
        ("llama", "x" * 64, (4,), "more than 63 bytes"),
        ("llama", "blk.0.attn_q.bias", (4,), "it has blk.0.attn_q.bias"),
        ("llama", "blk.0.ffn_up.weight", None, "lacks blk.0.ffn_up.weight"),
        ("llama", "rope_freqs.weight", (2,), r"rope_freqs.weight has the shape \(2,\), expected \(1,\)"),
        ("llama", "output.weight", (15, 4), r"output.weight has the shape \(4, 15\), expected \(4, 16\)"),
        ("gemma2", "output.weight", (16, 4), "it has output.weight"),
        ("qwen3", "rope_freqs.weight", (1,), "it has rope_freqs.weight"),
    ],
)
def test_tensors_that_are_no_plain_decoder(tmp_path: Path, name: str, tensor: str, shape: Any, says: str) -> None:
    array = None if shape is None else np.ones(shape, np.float32)
    with pytest.raises(ValueError, match=says):
        read_header(_write(tmp_path / "bad.gguf", name, tensors={tensor: array}))


def _reads(path: Path, data: bytes) -> bool:
    """Whether a file is accepted; anything but ValueError fails the test."""
    path.unlink(missing_ok=True)  # some disks are slow to overwrite
    path.write_bytes(data)
    try:
        read_header(path)
    except ValueError:
        return False
    return True


@given(st.binary(max_size=400), st.integers(0, 3), st.integers(0, 2), st.booleans())
def test_random_bytes(tmp_path: Path, data: bytes, tensors: int, keys: int, headed: bool) -> None:
    _reads(tmp_path / "random.gguf", struct.pack("<4sIQQ", b"GGUF", 3, tensors, keys) * headed + data)


@pytest.mark.parametrize("tensors", [0, 1])
@pytest.mark.parametrize("of", range(-1, 14))
@pytest.mark.parametrize("count", [0, 1, 1 << 22, (1 << 32) - 1, _HUGE, (1 << 64) - 1])
def test_arrays_of_more_than_the_file(tmp_path: Path, tensors: int, of: int, count: int) -> None:
    """Some dozens of bytes, on which gguf's own reader does not come back."""
    head = struct.pack("<4sIQQQ3sIiQ", b"GGUF", 3, tensors, 1, 3, b"x.a", 9, of, count)
    assert not _reads(tmp_path / "array.gguf", head)


def _mutate(data: bytes, rng: random.Random, end: int) -> bytes:
    """Up to four times: a bit turned, or up to 8 bytes overwritten, put in or taken out, some as a huge length."""
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at, size = rng.randrange(min(end, len(data))), rng.randint(1, 8)
        new = rng.choice([rng.randbytes(size), bytes(size), b"\xff" * size, bytes([data[at] ^ 1 << rng.randrange(8)])])
        new = struct.pack("<Q", rng.choice([1 << rng.randrange(64), (1 << 64) - 1])) if rng.random() < 0.1 else new
        data = data[:at] + new + data[at + rng.choice([0, size, len(new), len(new), len(new)]) :]
    return data


@given(st.randoms(use_true_random=False))
def test_random_mutations(small: Path, tmp_path: Path, rng: random.Random) -> None:
    data = small.read_bytes()
    for _ in range(20):
        _reads(tmp_path / "mutated.gguf", _mutate(data, rng, len(data)))


# Every key that the gguf package knows, and values of every kind.
_KNOWN = sorted(
    {
        key
        for group in vars(gguf.Keys).values()
        if isinstance(group, type)
        for key in vars(group).values()
        if isinstance(key, str) and "." in key
    }
)
_VALUES: list[tuple[Any, ...]] = [
    (0, Type.UINT32),
    (1, Type.UINT32),
    (7, Type.INT32),
    (0.0, Type.FLOAT32),
    (-3e38, Type.FLOAT32),
    (False, Type.BOOL),
    ("x", Type.STRING),
    ([1], Type.ARRAY, Type.INT32),
    ([True] * 600, Type.ARRAY, Type.BOOL),
]
_OPEN = """
import ctypes, sys
from pathlib import Path
from guardpass.engines.llamacpp.library import library, quiet
from guardpass.engines.llamacpp.context import Room
from guardpass.engines.llamacpp.engine import free, open_model

llama, contexts = library(), 0
for path in sorted(Path(sys.argv[1]).iterdir()):
    print(path.name, flush=True)
    with quiet(llama):
        room = Room(threads=1, device="cpu", cells=16, sequences=2, outputs=2, tiles=contexts % 2 == 0)
        model, context = open_model(llama, path, room)
        if context:
            contexts += 1
            llama.llama_decode(context, llama.llama_batch_get_one((ctypes.c_int32 * 3)(1, 2, 3), 3))
    if context:
        free(llama, model, context)
print(contexts)
"""


@pytest.mark.llamacpp
@pytest.mark.slow
def test_what_is_accepted_does_not_end_the_process(tmp_path: Path) -> None:
    """Open, decode, close; llama.cpp may refuse."""
    rng, folder = random.Random(1), tmp_path / "accepted"
    folder.mkdir()
    for name in _NAMES:
        data = _write(tmp_path / "whole.gguf", name).read_bytes()
        end = data.index(b"ffn_down.weight") + 50
        for number in range(200):
            while not _reads(folder / f"{name} {number}", _mutate(data, rng, end)):
                pass
    for key, (number, value) in itertools.product(_KNOWN, enumerate(_VALUES)):
        for name in ("llama", "gemma2"):
            path = folder / f"{name} {key} {number}"
            if not _reads(path, _write(path, name, {key.replace("{arch}", name): value}).read_bytes()):
                path.unlink()
    accepted = len(list(folder.iterdir()))
    environment = os.environ | {"GGML_NO_BACKTRACE": "1"}  # else a debugger's lines come between
    child = subprocess.run([sys.executable, "-c", _OPEN, folder], capture_output=True, text=True, env=environment)
    *_, last = child.stdout.splitlines()
    assert child.returncode == 0, f"llama.cpp ended the process on {last}: {child.stderr[-500:]}"
    assert int(last) > accepted / 2 > 400


def _reached(*_: object) -> None:
    pytest.fail("it was opened")


@pytest.mark.llamacpp
def test_an_altered_model_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = _export(tmp_path, "kanana-safeguard-8b", "f32")
    monkeypatch.setattr("guardpass.engines.llamacpp.engine.read_header", _reached)
    with pytest.raises(pytest.fail.Exception, match="it was opened"):
        Guard.load(guard)
    data = (guard / "model.gguf").read_bytes()
    (guard / "model.gguf").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refuse_to_load(guard, "model.gguf has sha256")


@pytest.mark.llamacpp
def test_a_hostile_model_that_the_manifest_vouches_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = _export(tmp_path, "kanana-safeguard-8b", "f32")
    monkeypatch.setattr("llama_cpp.llama_model_load_from_file", _reached)
    with pytest.raises(pytest.fail.Exception, match="it was opened"):
        Guard.load(guard)
    data = (guard / "model.gguf").read_bytes()
    twice = _write(tmp_path / "twice.gguf", keys=_texts(_TOKENS, "tok0", *_WORDS[:15])).read_bytes()
    for hostile, says in [
        (data[:-1], "download or copy it again"),
        (data[:40], "within its header"),
        (twice, "two of its tokens are alike"),
    ]:
        (guard / "model.gguf").write_bytes(hostile)
        seal(guard)
        refuse_to_load(guard, f"model.gguf is no GGUF that can be opened safely: .*{says}")
