"""Each native kernel against plain numpy, at every level this CPU can run."""

import math
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ..support import kernels_reference as reference
from ..support.kernels_reference import Layer

kernels = pytest.importorskip("guardpass_kernels", reason="guardpass-kernels is not installed: pip install ./kernels")
testing = pytest.importorskip("guardpass_kernels.testing")

LEVELS = kernels.levels()
at_every_level = pytest.mark.parametrize("level", LEVELS)
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=40, deadline=None)


def rows(rng: np.random.Generator, m: int, k: int) -> np.ndarray:
    """Random rows, some large, some tiny, now and then one of zeros."""
    x = rng.normal(size=(m, k)) * 10.0 ** rng.integers(-4, 5, (m, 1))
    return np.ascontiguousarray(np.where(rng.random((m, 1)) < 0.1, 0, x), np.float32)


def test_levels() -> None:
    assert LEVELS[0] == "portable"
    assert kernels.level() in LEVELS


@pytest.mark.parametrize("level", LEVELS)
def test_a_forced_level_is_taken(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARDPASS_KERNELS_LEVEL", level)
    assert kernels.level() == level


def test_a_level_this_cpu_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARDPASS_KERNELS_LEVEL", "quantum")
    with pytest.raises(ValueError, match="quantum, expected one of what this CPU can run: portable"):
        kernels.level()


_SMALL_SIGNAL_STACK = """
import ctypes
import guardpass_kernels as kernels

class Stack(ctypes.Structure):
    _fields_ = [("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

memory = ctypes.create_string_buffer(4096)
given = Stack(ctypes.addressof(memory), 0, len(memory))
assert ctypes.CDLL(None).sigaltstack(ctypes.byref(given), None) == 0
print(kernels.level(), kernels.peak(2, 0.01) > 0)
"""


@pytest.mark.skipif("amx_int8" not in LEVELS, reason="this CPU has no AMX, or the system does not grant it")
def test_where_amx_is_not_granted_another_level_runs() -> None:
    # Linux grants it to no process that has a signal stack too small for tiles.
    free = {name: value for name, value in os.environ.items() if name != "GUARDPASS_KERNELS_LEVEL"}
    command = [sys.executable, "-c", _SMALL_SIGNAL_STACK]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=free)
    assert ran.stdout.split() == ["avx512_vnni", "True"]


def test_peak_is_measured() -> None:
    assert kernels.peak(2, 0.01) > 0


@at_every_level
@few
@given(seed=seeds, m=st.integers(1, 9), k=st.integers(1, 300), turned=st.booleans(), normed=st.booleans())
def test_levels_of_rows_are_bit_exact(level: str, seed: int, m: int, k: int, turned: bool, normed: bool) -> None:
    rng = np.random.default_rng(seed)
    x = rows(rng, m, k)
    signs = rng.choice([-1.0, 1.0], min(k & -k, 1 << rng.integers(0, 8)) if turned else 1).astype(np.float32)
    levels, scales = testing.quantize(level, x, signs, normed, 1e-6)
    expected, expected_scales = reference.quantize(x, signs, normed, 1e-6)
    np.testing.assert_array_equal(levels[:, :k].astype(np.int32) - 128, expected)
    assert (levels[:, k:] == 128).all()
    np.testing.assert_allclose(scales, expected_scales, rtol=3e-6, atol=1e-38)


@at_every_level
@pytest.mark.parametrize("block", [1, 2, 4, 8, 16, 32, 64, 128, 512])
def test_rotation_is_the_exporters(level: str, block: int) -> None:
    rotation = pytest.importorskip("guardpass.export.decoder.rotation").rotation(block)
    signs = np.random.default_rng(block).choice([-1.0, 1.0], block).astype(np.float32)
    if block > 1:
        np.testing.assert_array_equal(np.sign(rotation[:, 0]), signs)
    else:
        signs[:] = 1
    x = rows(np.random.default_rng(0), 5, 1024)
    levels, scales = testing.quantize(level, x, signs, False, 0.0)
    turned = (x.reshape(-1, block) @ rotation if block > 1 else x).reshape(5, 1024)
    assert np.abs((levels.astype(np.float32) - 128) * scales[:, None] - turned).max(1) == pytest.approx(
        scales / 2, rel=0.05, abs=1e-20
    )


@at_every_level
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("turned", [False, True])
def test_a_row_that_is_not_finite_has_no_scale(level: str, value: float, turned: bool) -> None:
    x = rows(np.random.default_rng(0), 3, 77 if not turned else 128)
    x[1, 70] = value
    signs = np.ones(64 if turned else 1, np.float32)
    for normed in (False, True):
        levels, scales = testing.quantize(level, x, signs, normed, 1e-6)
        assert np.isnan(scales[1])
        assert np.isfinite(scales[[0, 2]]).all()
        assert (levels[1] == 128).all()


@at_every_level
def test_a_row_whose_squares_overflow_is_not_taken_for_zeros(level: str) -> None:
    x = np.full((1, 64), 1e38, np.float32)
    assert np.isnan(testing.quantize(level, x, np.ones(1, np.float32), True, 1e-6)[1]).all()
    assert testing.quantize(level, x, np.ones(1, np.float32), False, 0.0)[1] == pytest.approx(1e38 / 127)


def gemm(level: str, x: np.ndarray, scales: np.ndarray, n: int, packed: Any, epilogue: str, out: np.ndarray) -> Any:
    levels = np.full((len(x), -(-x.shape[1] // 64) * 64), 128, np.uint8)
    levels[:, : x.shape[1]] = x + 128
    return testing.gemm(level, levels, scales, packed, n, x.shape[1], epilogue, out)


@at_every_level
@pytest.mark.parametrize("int4", [False, True], ids=["int8", "int4"])
@few
@given(seed=seeds, m=st.integers(1, 70), n=st.integers(1, 200), k=st.integers(1, 200), extreme=st.booleans())
def test_products_are_bit_exact(level: str, int4: bool, seed: int, m: int, n: int, k: int, extreme: bool) -> None:
    rng = np.random.default_rng(seed)
    layer = Layer.random(rng, n, k, int4)
    x = rng.choice([-127, 127], (m, k)) if extreme else rng.integers(-127, 128, (m, k))
    weight = layer.weight.astype(np.int64)
    if extreme and not int4:
        layer = Layer(np.where(rng.random((n, k)) < 0.5, -127, 127).astype(np.int8), layer.scale)
        weight = layer.weight.astype(np.int64)
    products = (x @ weight.T).astype(np.float32)
    # With scales of one, i32 sums below 2^24 come back exactly.
    packed = layer.packed()
    packed["scale"][:] = 1
    got = gemm(level, x, np.ones(m, np.float32), n, packed, "store", np.full((m, n), np.nan, np.float32))
    np.testing.assert_array_equal(got, products)
    packed = layer.packed()
    scales, before = rng.uniform(0.1, 9, m).astype(np.float32), rng.normal(size=(m, n)).astype(np.float32)
    got = gemm(level, x, scales, n, packed, "add", before)
    np.testing.assert_array_equal(got, products * (scales[:, None] * layer.scale) + before)


@at_every_level
@pytest.mark.parametrize("epilogue", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("int4", [False, True], ids=["int8", "int4"])
@few
@given(seed=seeds, m=st.integers(1, 9), n=st.integers(1, 99), k=st.integers(1, 99), size=st.sampled_from([0.1, 3, 100]))
def test_gated_products(level: str, epilogue: str, int4: bool, seed: int, m: int, n: int, k: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    gate, up = (Layer.random(rng, n, k, int4, size) for _ in range(2))
    x, scales = rng.integers(-127, 128, (m, k)), rng.uniform(0.01, 0.03, m).astype(np.float32)
    got = gemm(level, x, scales, n, gate.packed(up), epilogue, np.zeros((m, n), np.float32))
    a, b = ((x @ each.weight.astype(np.int64).T).astype(np.float32) for each in (gate, up))
    a, b = a * (scales[:, None] * gate.scale), b * (scales[:, None] * up.scale)
    expected = getattr(reference, epilogue)(a) * b
    np.testing.assert_allclose(got, expected, rtol=3e-6, atol=1e-6 * max(1.0, np.abs(b).max()))


@at_every_level
@pytest.mark.parametrize("int4", [False, True], ids=["int8", "int4"])
@pytest.mark.parametrize("m", [1, 17, 32, 45])
def test_a_k_that_is_done_in_parts(level: str, int4: bool, m: int) -> None:
    rng = np.random.default_rng(m)
    layer, x = Layer.random(rng, 70, 12300, int4), rng.integers(-127, 128, (m, 12300))
    packed = layer.packed()
    packed["scale"][:] = 1
    got = gemm(level, x, np.ones(m, np.float32), 70, packed, "store", np.full((m, 70), np.nan, np.float32))
    np.testing.assert_array_equal(got, (x @ layer.weight.astype(np.int64).T).astype(np.float32))


@at_every_level
def test_the_largest_k_does_not_overflow(level: str) -> None:
    layer = Layer(np.full((1, 65536), -127, np.int8), np.ones(1, np.float32))
    x = np.full((1, 65536), 127)
    got = gemm(level, x, np.ones(1, np.float32), 1, layer.packed(), "store", np.zeros((1, 1), np.float32))
    assert got[0, 0] == -127 * 127 * 65536


@at_every_level
def test_group_scales_that_lie_do_no_harm(level: str) -> None:
    rng = np.random.default_rng(0)
    packed = Layer.random(rng, 70, 64, True).packed()
    packed["group"][:] = rng.integers(0, 256, packed["group"].shape)
    x = rng.integers(-127, 128, (3, 64))
    assert np.isfinite(gemm(level, x, np.ones(3, np.float32), 70, packed, "store", np.zeros((3, 70), np.float32))).all()


@at_every_level
@few
@given(seed=seeds, m=st.integers(1, 9), half=st.integers(1, 70), normed=st.booleans())
def test_rope(level: str, seed: int, m: int, half: int, normed: bool) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(m, 2 * half)).astype(np.float32)
    angles = rng.uniform(0, 4000, (m, half)).astype(np.float32)
    gain = rng.normal(size=2 * half).astype(np.float32)
    got = testing.head(level, x, angles, gain if normed else gain[:0], 1e-6, 0.5)
    known = reference.norm(x, 1e-6) * gain if normed else x
    expected = reference.rope(known[:, None], angles)[:, 0] / 2
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-6 * np.abs(expected).max())


@at_every_level
@few
@given(
    seed=seeds,
    rows=st.integers(1, 20),
    keys=st.integers(1, 200),
    dim=st.sampled_from([2, 6, 16, 24, 64, 80, 128, 256]),
    softcap=st.sampled_from([0.0, 5.0]),
    size=st.sampled_from([0.1, 1.0, 30.0]),
    share=st.sampled_from([0.02, 0.5, 1.0]),
)
def test_attention(
    level: str, seed: int, rows: int, keys: int, dim: int, softcap: float, size: float, share: float
) -> None:
    rng = np.random.default_rng(seed)
    q, k, v = (rng.normal(size=(n, dim)).astype(np.float32) for n in (rows, keys, keys))
    sees = rng.random((rows, keys)) < share
    sees[np.arange(rows), rng.integers(0, keys, rows)] = True
    got = testing.attention(level, q, k, v, sees, size / math.sqrt(dim), softcap)
    expected = reference.attend(q, k, v, sees, size / math.sqrt(dim), softcap)
    np.testing.assert_allclose(got, expected, atol=3e-6 * max(1.0, size) * max(1.0, softcap))


@at_every_level
def test_attention_that_sees_nothing_or_nan_is_no_answer(level: str) -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(n, 16)).astype(np.float32) for n in (3, 100, 100))
    sees = np.ones((3, 100), np.bool_)
    sees[1] = False
    q[2, 3] = np.nan
    got = testing.attention(level, q, k, v, sees, 1.0, 0.0)
    assert np.isfinite(got[0]).all()
    assert np.isnan(got[1:]).all()
