"""Whole native passes: against plain numpy, on any number of threads, beside each other, with arguments that lie."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from ..support.kernels_reference import ARCHITECTURES, Model, Pass, aligned
from ..support.profiles import scaled

kernels = pytest.importorskip("guardpass_kernels", reason="guardpass-kernels is not installed: pip install ./kernels")

LEVELS = kernels.levels()
# Sizes that are no multiple of a tile, a vector or a block of keys; and passes: span, tree, slots.
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {},
    "no prefix": {"prefix": 0},
    "odd sizes": {"hidden": 50, "ffn": 35, "head_dim": 6, "heads": 5, "kv_heads": 1},
    "even sizes": {"hidden": 128, "ffn": 256, "head_dim": 64, "heads": 2, "kv_heads": 2},
    "one layer": {"layers": 1},
    "long prefix": {"prefix": 1000, "layers": 2},
}
PASSES = [(5, 7, 1), (1, 0, 1), (70, 0, 3), (0, 9, 2), (30, 60, 20)]


def native(model: Model, threads: int = 2, **options: Any) -> Any:
    return kernels.Model(model.config, model.tensors, threads, **options)


@cache
def _expected(kind: str, quant: str) -> list[tuple[Model, Pass, np.ndarray]]:
    """Passes of several models, and what numpy makes of them: once for all levels."""
    found = []
    for seed, sizes in enumerate(SHAPES.values()):
        model = Model.random(kind, seed, quant, **sizes)
        for span, tree, slots in PASSES:
            request = model.request(np.random.default_rng(seed), span, tree, slots)
            found.append((model, request, model.run(request)))
    return found


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("quant", ["int8", "int4"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_passes_are_those_of_numpy(kind: str, quant: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARDPASS_KERNELS_LEVEL", level)
    errors = []
    for model, request, expected in _expected(kind, quant):
        got = native(model).run(*request.arguments)
        assert got.shape == expected.shape == (len(request.slots), model.config["columns"])
        errors.append(np.abs(got - expected).max())
    # An activation at the border of two levels may fall to either side, which moves scores by far more than float32
    # does, and by far less than a mistake would.
    assert max(errors) < 0.1
    assert np.median(errors) < 2e-6


@pytest.mark.skipif("amx_int8" not in LEVELS, reason="this CPU has no AMX, or the system does not grant it")
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_tiles_give_the_bits_of_dot_products(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for model, request, _ in _expected(kind, "int8"):
        scores = []
        for level in ("avx512_vnni", "amx_int8"):
            monkeypatch.setenv("GUARDPASS_KERNELS_LEVEL", level)
            scores.append(native(model).run(*request.arguments))
        np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize("table", [np.float16, np.float32, np.uint16])
def test_embedding_dtypes(table: type) -> None:
    model = Model.random("llama", table=np.float32)
    values = model.tensors["embedding"]
    if table is np.uint16:  # bfloat16: a float32's upper half
        stored = (values.view(np.uint32) >> 16).astype(np.uint16)
        values = (stored.astype(np.uint32) << 16).view(np.float32)
    else:
        stored = values.astype(table)
        values = stored.astype(np.float32)
    request = model.request(np.random.default_rng(0), 20, 5, 4)
    model.tensors["embedding"] = stored
    got = native(model).run(*request.arguments)
    model.tensors["embedding"] = values
    np.testing.assert_array_equal(got, native(model).run(*request.arguments))


def test_float16_is_widened_exactly() -> None:
    """Every finite float16, subnormal ones too, through a model whose norm sees one of them at a time."""
    every = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    rows = np.pad(every, (0, -len(every) % 32)).reshape(-1, 32)
    model = Model.random("llama", hidden=32, vocab=len(rows), layers=1, prefix=0)
    request = model.request(np.random.default_rng(0), 1, 0, 1)
    model.tensors["embedding"] = rows
    half = native(model)
    model.tensors["embedding"] = rows.astype(np.float32)
    single = native(model)
    for token in range(0, len(rows), 7):
        asked = replace(request, tokens=np.array([token])).arguments
        np.testing.assert_array_equal(half.run(*asked), single.run(*asked))


def test_what_a_token_does_not_see_does_not_matter() -> None:
    model = Model.random("gemma2")
    request = model.request(np.random.default_rng(1), 40, 30, 1)
    request = replace(request, slots=np.array([45]))
    made = native(model)
    before = made.run(*request.arguments)
    unseen = np.flatnonzero(~request.sees[5]) + 40
    tokens = request.tokens.copy()
    tokens[unseen] = (tokens[unseen] + 7) % model.config["vocab"]
    np.testing.assert_array_equal(made.run(*replace(request, tokens=tokens).arguments), before)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_a_branch_scores_the_same_bits_whatever_stands_beside_it(
    kind: str, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUARDPASS_KERNELS_LEVEL", level)
    model = Model.random(kind, prefix=70)
    made = native(model)
    for others in (1, 5, 16, 50, 90):
        both = model.request(np.random.default_rng(others), 40, others + 12, 1)
        sees = np.zeros_like(both.sees)  # two chains: `others` tokens, then the branch's 12
        sees[:others, :others] = np.tri(others, dtype=np.bool_)
        sees[others:, others:] = np.tri(12, dtype=np.bool_)
        mine = np.r_[np.arange(40), np.arange(40 + others, 52 + others)]
        positions = len(both.chain) + np.r_[np.arange(40), 40 + np.arange(others), 40 + np.arange(12)]
        both = replace(both, sees=sees, positions=positions, slots=np.arange(40 + others, 52 + others))
        branch = np.tri(12, dtype=np.bool_)
        alone = replace(both, tokens=both.tokens[mine], positions=positions[mine], slots=np.arange(40, 52), sees=branch)
        np.testing.assert_array_equal(made.run(*both.arguments), made.run(*alone.arguments))


@pytest.mark.serial
@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_scores_do_not_depend_on_threads_or_company(quant: str) -> None:
    model = Model.random("qwen3", quant=quant, prefix=100, hidden=256, ffn=512)
    requests = [model.request(np.random.default_rng(i), 3 + 29 * i, i, 1 + i) for i in range(8)]
    alone = [native(model, 1).run(*each.arguments) for each in requests]
    for threads in (2, 3, 5, 8):
        made = native(model, threads)
        with ThreadPoolExecutor(4) as callers:
            together = list(callers.map(lambda each, to=made: to.run(*each.arguments), requests * 3))
        for i, scores in enumerate(together):
            np.testing.assert_array_equal(scores, alone[i % len(requests)])


@pytest.mark.serial
def test_the_gil_is_released() -> None:
    model = Model.random("llama", hidden=512, ffn=1024, layers=8)
    made = native(model, 1)
    request = model.request(np.random.default_rng(0), 400, 0, 1)
    running, ticks = threading.Event(), 0
    worker = threading.Thread(target=lambda: (running.set(), made.run(*request.arguments)))
    worker.start()
    running.wait()
    while worker.is_alive():
        ticks += 1
    assert ticks > 100


@pytest.mark.serial
def test_a_model_may_end_right_after_a_pass() -> None:
    """While its workers still come to the pass's last loop: one in some thousand once slept on, and the end waited."""
    model = Model.random("llama", layers=1)
    request = model.request(np.random.default_rng(0), 50, 5, 2)
    for _ in range(scaled(3000)):
        native(model, 32).run(*request.arguments)


@pytest.mark.serial
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own() -> None:
    model = Model.random("llama")
    made = native(model, 3)
    request = model.request(np.random.default_rng(0), 50, 5, 2)
    expected = made.run(*request.arguments)
    child = os.fork()
    if child == 0:
        same = np.array_equal(made.run(*request.arguments), expected)
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_pass_after_a_larger_one_is_the_same() -> None:
    model = Model.random("mistral")
    made = native(model)
    small = model.request(np.random.default_rng(0), 5, 3, 2)
    before = made.run(*small.arguments)
    made.run(*model.request(np.random.default_rng(1), 300, 50, 9).arguments)
    np.testing.assert_array_equal(made.run(*small.arguments), before)


def test_profile() -> None:
    model = Model.random("gemma2")
    request = model.request(np.random.default_rng(0), 50, 5, 2)
    made = native(model, profile=True)
    made.run(*request.arguments)
    stages = made.profile()
    assert set(stages) >= {"embed", "qkv", "attention", "gate_up", "down", "head"}
    assert all(seconds > 0 for seconds in stages.values())
    assert not any(made.profile().values())
    plain = native(model)
    plain.run(*request.arguments)
    assert not any(plain.profile().values())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_never_a_verdict(value: float) -> None:
    for kind in ARCHITECTURES:
        model = Model.random(kind, table=np.float32)
        request = model.request(np.random.default_rng(0), 20, 5, 3)
        model.tensors["embedding"] = aligned(model.tensors["embedding"])
        model.tensors["embedding"][request.tokens[0], 3] = value
        assert np.isnan(native(model).run(*request.arguments)).all(), kind


def test_an_overflow_is_never_a_verdict() -> None:
    model = Model.random("llama", table=np.float32)
    request = model.request(np.random.default_rng(0), 20, 5, 3)
    model.tensors["embedding"][request.tokens[0]] = 1e38
    assert np.isnan(native(model).run(*request.arguments)).all()


Change = Callable[[dict[str, Any]], object]
BAD_CONFIGS: list[tuple[Change, str]] = [
    (lambda c: c.pop("layers"), "layers is missing"),
    (lambda c: c.update(extra=1), "24 entries, expected the 23"),
    (lambda c: c.update(layers=0), "layers is 0, expected 1 to 4096"),
    (lambda c: c.update(layers=1 << 63), "layers is 9223372036854775808"),
    (lambda c: c.update(layers=True), "layers is True, expected a whole number"),
    (lambda c: c.update(layers="3"), "layers is '3'"),
    (lambda c: c.update(hidden=1 << 40), "hidden is 1099511627776, expected 1 to 65536"),
    (lambda c: c.update(heads=3), "heads is 3, expected a multiple of kv_heads, 2"),
    (lambda c: c.update(head_dim=25), "head_dim is 25, expected an even number"),
    (lambda c: c.update(heads=65, kv_heads=1), "65 heads share a key, expected at most 64"),
    (lambda c: c.update(heads=4096, kv_heads=64, head_dim=1024), "heads x head_dim is 4194304"),
    (lambda c: c.update(eps=float("nan")), "eps is nan"),
    (lambda c: c.update(eps=-1.0), "eps is -1"),
    (lambda c: c.update(scale=0.0), "scale is 0"),
    (lambda c: c.update(scale="x"), "scale is 'x', expected a number"),
    (lambda c: c.update(softcap=float("inf")), "softcap is inf"),
    (lambda c: c.update(activation="relu"), "activation is 'relu', expected silu or gelu_tanh"),
    (lambda c: c.update(quant=None), "quant is None, expected int8 or int4"),
    (lambda c: c.update(post_norms=1), "post_norms is 1, expected a bool"),
    (lambda c: c.update(windows=(0, 0, 0)), "windows is .*, expected a list"),
    (lambda c: c.update(windows=[0]), "windows has 1 entries, expected one a layer, 3"),
    (lambda c: c.update(windows=[0, -1, 0]), "windows is -1"),
    (lambda c: c.update(residual_block=3), "residual_block is 3, expected a power of two that divides 96"),
    (lambda c: c.update(ffn_block=64), "ffn_block is 64, expected a power of two that divides 160"),
    (lambda c: c.update(prefix=10), "prefix.positions has shape \\[9\\], expected \\[10\\]"),
    (lambda c: c.update(prefix=-1), "prefix is -1"),
    (lambda c: c.update(vocab=51), "embedding has shape \\[50, 96\\], expected \\[51, 96\\]"),
    (lambda c: c.update(columns=4), "verdict_head has shape"),
    (lambda c: c.update(layers=4, windows=[0] * 4), "tensor model.layers.3.self_attn.q_proj.weight is missing"),
    (lambda c: c.update(layers=2, windows=[0] * 2), "tensor model.layers.2.* is none that this config has"),
    (lambda c: c.update(quant="int4"), "q_proj.weight is int8, expected uint8"),
    (lambda c: c.update(head_norms=True), "q_norm.weight is missing"),
    (lambda c: c.update(post_norms=True), "post_attention_layernorm.weight is missing"),
]


@pytest.mark.parametrize(("change", "message"), BAD_CONFIGS, ids=[message for _, message in BAD_CONFIGS])
def test_configs_that_lie_are_refused(change: Change, message: str) -> None:
    model = Model.random("llama")
    change(model.config)
    with pytest.raises(ValueError, match=message):
        native(model)


def _unaligned(x: np.ndarray) -> np.ndarray:
    raw = np.empty(x.nbytes + 128, np.uint8)
    start = -raw.ctypes.data % 64 + 1
    return raw[start : start + x.nbytes].view(x.dtype).reshape(x.shape)


BAD_TENSORS: dict[str, tuple[str, Callable[[np.ndarray], Any], str]] = {
    "dtype": ("model.layers.1.mlp.down_proj.weight", lambda x: x.astype(np.int32), "is int32, expected int8"),
    "shape": ("model.layers.1.mlp.gate_up.weight", lambda x: x[:-1], "has shape"),
    "dimensions": ("model.layers.0.self_attn.q_proj.weight", lambda x: x.reshape(-1), "has shape"),
    "strides": ("embedding", lambda x: np.asfortranarray(x), "embedding is not contiguous"),
    "alignment": ("model.layers.2.self_attn.o_proj.weight", _unaligned, "not aligned to 64"),
    "alignment of floats": ("model.layers.2.self_attn.o_proj.scale", _unaligned, "not aligned to 4"),
    "sums": ("model.layers.2.self_attn.o_proj.sum", lambda x: x.astype(np.int64), "is int64, expected int32"),
    "byte order": ("inv_freq", lambda x: x.astype(">f4"), "inv_freq"),
    "embedding": ("embedding", lambda x: x.astype(np.float64), "expected float16, uint16"),
    "no array": ("inv_freq", lambda x: x.tolist(), "inv_freq is .*list.*, expected an array"),
    "none": ("inv_freq", lambda _: None, "inv_freq is .*None.*, expected an array"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_tensors_that_lie_are_refused(case: str) -> None:
    model = Model.random("llama")
    name, change, message = BAD_TENSORS[case]
    model.tensors[name] = change(model.tensors[name])
    with pytest.raises(ValueError, match=message):
        native(model)


def test_every_tensor_is_needed_and_checked() -> None:
    model = Model.random("gemma2", prefix=3)
    for name, value in model.tensors.items():
        without = {other: each for other, each in model.tensors.items() if other != name}
        with pytest.raises(ValueError, match=f"tensor {name} is missing"):
            kernels.Model(model.config, without, 1)
        for lie in (np.zeros((*value.shape, 1), value.dtype), np.zeros(value.shape, np.float64)):
            with pytest.raises(ValueError, match=name):
                kernels.Model(model.config, model.tensors | {name: lie}, 1)


@pytest.mark.parametrize("threads", [0, -1, 1025, 1 << 40])
def test_threads_are_checked(threads: int) -> None:
    with pytest.raises(ValueError, match="threads is"):
        native(Model.random("llama"), threads)


def _with(**changes: Any) -> Callable[[Pass], dict[str, Any]]:
    return lambda _: changes


BAD_PASSES: dict[str, tuple[Callable[[Pass], dict[str, Any]], str]] = {
    "a token beyond the vocabulary": (lambda p: {"tokens": p.tokens + 50}, "tokens.* expected 0 to below 50"),
    "a negative token": (lambda p: {"tokens": p.tokens - 50}, "tokens.* expected 0 to below 50"),
    "no tokens": (_with(tokens=np.zeros(0, np.int64)), "tokens has 0 entries"),
    "tokens of 32 bits": (lambda p: {"tokens": p.tokens.astype(np.int32)}, "tokens is int32, expected int64"),
    "tokens in a batch": (lambda p: {"tokens": p.tokens[None]}, "tokens has shape \\[1, 12\\], expected one dimension"),
    "tokens apart": (lambda p: {"tokens": np.repeat(p.tokens, 2)[::2]}, "tokens is not contiguous"),
    "a position beyond the context": (lambda p: {"positions": p.positions + 4096}, "expected 0 to below 4096"),
    "a negative position": (lambda p: {"positions": p.positions - 4096}, "expected 0 to below 4096"),
    "a position too few": (lambda p: {"positions": p.positions[1:]}, "positions has 11 entries, expected .* 12"),
    "no slots": (_with(slots=np.zeros(0, np.int64)), "slots has 0 entries"),
    "a slot beyond the tokens": (_with(slots=np.array([12])), "slots\\[0\\] is 12, expected 0 to below 12"),
    "a negative slot": (_with(slots=np.array([-1])), "slots\\[0\\] is -1"),
    "too many slots": (_with(slots=np.zeros(13, np.int64)), "slots has 13 entries"),
    "a column beyond the prefix": (_with(chain=np.array([9], np.int32)), "chain\\[0\\] is 9, expected 0 to below 9"),
    "a negative column": (_with(chain=np.array([-1], np.int32)), "chain\\[0\\] is -1"),
    "a column twice": (_with(chain=np.array([3, 3], np.int32)), "chain has column 3 twice"),
    "columns of 64 bits": (_with(chain=np.array([3])), "chain is int64, expected int32"),
    "a tree larger than the pass": (_with(sees=np.eye(13, dtype=np.bool_)), "expected \\[N, N\\] with N at most 12"),
    "a tree that is no square": (_with(sees=np.ones((3, 2), np.bool_)), "sees has shape"),
    "a tree of numbers": (_with(sees=np.eye(3, dtype=np.int64)), "sees is int64, expected bool"),
    "a tree blind to itself": (_with(sees=np.zeros((3, 3), np.bool_)), "sees\\[0\\]\\[0\\] is false"),
    "no array": (_with(tokens=[1, 2]), "tokens is .*list.*, expected an array"),
}


@pytest.mark.parametrize("case", BAD_PASSES)
def test_passes_that_lie_are_refused(case: str) -> None:
    model = Model.random("llama")
    made = native(model)
    request = model.request(np.random.default_rng(0), 5, 7, 2)
    change, message = BAD_PASSES[case]
    with pytest.raises(ValueError, match=message):
        made.run(*replace(request, **change(request)).arguments)
    assert np.isfinite(made.run(*request.arguments)).all()  # a refusal leaves the model as it was


def test_arrays_may_be_read_only_and_are_kept() -> None:
    model = Model.random("llama")
    for name in model.tensors:
        model.tensors[name].setflags(write=False)
    made = native(model)
    request = model.request(np.random.default_rng(0), 5, 7, 2)
    for each in request.arguments:
        each.setflags(write=False)
    expected = model.run(request)
    model.tensors.clear()
    np.testing.assert_allclose(made.run(*request.arguments), expected, atol=0.03)
