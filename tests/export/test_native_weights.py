"""The weights in model.packed, unpacked by the layout's own words, are the checkpoint's in the basis of the recipe.

That this basis changes no score is shown in float32, against transformers, by test_architectures.py.
"""

import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from guardpass.export.checkpoint.config import read_architecture
from guardpass.export.checkpoint.files import Checkpoint
from guardpass.export.decoder.forward import write_decoder
from guardpass.export.decoder.gptq import Seen, rounded
from guardpass.export.decoder.ops import Ops
from guardpass.export.decoder.rotation import rotation
from guardpass.export.to_native.linear import RECIPES, _channel_scale, _whole_scale
from guardpass.export.to_native.write import write_packed
from guardpass.export.to_onnx.graph import Graph
from guardpass.format.manifest import Prefix
from guardpass.format.packed import Arrays, open_tensors

from ..support.models import MODELS, ROTATED

_COLUMNS, _PREFIX = range(30), Prefix((5, 6, 7, 8), (-1, 0, 1, 1))


@dataclass(frozen=True)
class _Case:
    checkpoint: Path
    arrays: Arrays  # of model.packed
    expected: dict[str, np.ndarray]  # the weights of the float32 graph with the same rotations
    quant: str


@pytest.fixture(scope="module", params=[(kind, quant) for kind in MODELS for quant in RECIPES], ids=" ".join)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> _Case:
    kind, quant = request.param
    torch.manual_seed(0)
    model = MODELS[kind]().float().eval()
    for parameter in model.parameters():
        neutral = 1.0 if parameter.dim() == 1 and "gemma" not in kind else 0.0
        parameter.data = neutral + torch.randn_like(parameter) * 0.15
    directory = tmp_path_factory.mktemp("model")
    model.save_pretrained(directory)
    source = Checkpoint(directory)
    shape = read_architecture(source)
    write_packed(source, shape, _PREFIX, _COLUMNS, RECIPES[quant], directory / "model.packed")
    expected: dict[str, np.ndarray] = {}

    class Kept(Graph):
        def weight(self, name: str, value: np.ndarray) -> str:
            expected[name] = value
            return name

    write_decoder(Ops(source, shape, Kept(directory / "x"), ROTATED, _PREFIX, lambda _: None), shape, _COLUMNS)
    return _Case(directory, open_tensors(directory / "model.packed")[1], expected, quant)


def _integers(case: _Case, name: str, rows: np.ndarray, k: int) -> np.ndarray:
    """The int8 weights [N, K] of the tensor's rows, index by index as the layout is described."""
    weight, n, column = case.arrays[f"{name}.weight"], rows[:, None], np.arange(k)
    if case.quant == "int8":
        return weight[n // 64, column // 4, n % 64, column % 4].astype(np.int32)
    group, inside = column // 32, column % 32
    byte = weight[n // 64, group, inside // 8, n % 64, inside % 4]
    level = np.where(inside // 4 % 2, byte >> 4, byte & 15).astype(np.int32) - 8
    return level * case.arrays[f"{name}.group"][n // 64, group, n % 64]


def _places(linear: str, n: int) -> tuple[str, np.ndarray]:
    """The tensor a layer is in, and its rows there."""
    rows, both = np.arange(n), linear.replace("gate_proj", "gate_up").replace("up_proj", "gate_up")
    return (linear, rows) if both == linear else (both, rows // 32 * 64 + rows % 32 + 32 * linear.endswith("up_proj"))


def _linears(case: _Case) -> list[str]:
    return [name.removesuffix(".weight") for name in case.expected if name.endswith("_proj.weight")]


def test_every_weight_is_the_checkpoints(case: _Case) -> None:
    assert len(_linears(case)) == 7 * 4
    for linear in _linears(case):
        expected = case.expected[f"{linear}.weight"].T
        name, rows = _places(linear, len(expected))
        integers = _integers(case, name, rows, expected.shape[1])
        scale = case.arrays[f"{name}.scale"][rows]
        off = np.abs(integers * scale[:, None] - expected)
        if case.quant == "int8":
            assert np.abs(integers).max(axis=1).min() == 127
            assert (off <= 0.5001 * scale[:, None]).all()
        else:
            assert integers.min() >= -128
            assert np.linalg.norm(off) < 0.12 * np.linalg.norm(expected)
        sums = case.arrays[f"{name}.sum"]
        np.testing.assert_array_equal(sums[rows], integers.sum(axis=1))
        # What makes rows up to panels adds nothing, whatever it is multiplied by.
        rest = np.setdiff1d(np.arange(len(sums)), _used(case, linear))
        assert not case.arrays[f"{name}.scale"][rest].any()
        assert not sums[rest].any()


def _used(case: _Case, linear: str) -> np.ndarray:
    partners = [linear.replace("up_proj", "gate_proj"), linear.replace("gate_proj", "up_proj")]
    return np.concatenate([_places(each, case.expected[f"{each}.weight"].shape[1])[1] for each in partners])


def test_all_else_is_as_the_float_graph_has_it(case: _Case) -> None:
    others: dict[str, Callable[[np.ndarray], np.ndarray]] = {"_prefix": lambda x: x[0], "norm.weight": lambda x: x}
    found = 0
    for name, value in case.expected.items():
        change = next((change for end, change in others.items() if name.endswith(end)), None)
        if change and not name.endswith("_proj.weight"):
            np.testing.assert_array_equal(case.arrays[name], change(value))
            found += 1
    assert found >= 2 * 4
    np.testing.assert_array_equal(case.arrays["verdict_head"], case.expected["verdict_head"].T)
    embedding = load_file(case.checkpoint / "model.safetensors")["model.embed_tokens.weight"]
    np.testing.assert_array_equal(case.arrays["embedding"], embedding.astype(np.float16))
    np.testing.assert_array_equal(case.arrays["prefix.positions"], [0, 1, 2, 2])


@pytest.mark.parametrize("size", [1, 2, 16, 64])
def test_signs_and_a_fast_transform_are_the_rotation(size: int) -> None:
    """What the kernels do in place of a product: signs, butterflies (Sylvester), one factor."""
    from guardpass.export.decoder.rotation import signs

    x = np.random.default_rng(0).normal(size=(5, size)).astype(np.float32)
    found = x * signs(size)
    half = 1
    while half < size:
        pairs = found.reshape(5, -1, 2, half)
        found = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2).reshape(5, size)
        half *= 2
    expected = x @ rotation(size) if size > 1 else x
    np.testing.assert_allclose(found / np.sqrt(size), expected, atol=1e-5)


@pytest.mark.parametrize("columns", [32, 80, 2100])
def test_two_level_scales(columns: int) -> None:
    """Whole numbers from 1 to 16, of which nearly the best are found; corrected, the output's error is far below."""
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(400, 24)) @ rng.normal(size=(24, columns)) + 0.3 * rng.normal(size=(400, columns))).astype(
        np.float32
    )
    weights = (rng.normal(size=(40, columns)) * rng.uniform(0.3, 1, columns)).astype(np.float32)
    weights[3] = 0
    unit = _channel_scale(weights)

    def stored(seen: Seen) -> np.ndarray:
        levels, scales = rounded(weights, seen, 32, lambda block: _whole_scale(unit, block))
        times = scales / unit[:, None]
        np.testing.assert_allclose(times, np.rint(times), atol=1e-4)
        assert 1 <= times.min() <= times.max() <= 16.001
        assert np.abs(levels * np.repeat(np.rint(times), 32, axis=1)[:, :columns]).max() <= 128
        result: np.ndarray = levels * np.repeat(scales, 32, axis=1)[:, :columns]
        return result

    plain, corrected = stored(Seen(lambda: np.empty((0, columns), np.float32))), stored(Seen(lambda: rows))
    best = 0.0
    for start in range(0, columns, 32):
        block = weights[:, start : start + 32]
        tried: list[Any] = [
            np.square(np.clip(np.rint(block / (times * unit)[:, None]), -8, 7) * (times * unit)[:, None] - block).sum(
                axis=1
            )
            for times in range(1, 17)
        ]
        best += float(np.min(tried, axis=0).sum())
    assert np.square(plain - weights).sum() < 1.01 * best
    assert np.linalg.norm(rows @ (corrected - weights).T) < 0.75 * np.linalg.norm(rows @ (plain - weights).T)


def test_export_holds_no_more_of_a_deeper_model(tmp_path: Path) -> None:
    """Weights stream by: three times the layers, and as much memory at the peak."""
    peaks = []
    for layers in (2, 6):
        config = LlamaConfig(
            vocab_size=300,
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
        )
        LlamaForCausalLM(config).bfloat16().save_pretrained(tmp_path / str(layers))
        source = Checkpoint(tmp_path / str(layers))
        tracemalloc.start()
        write_packed(source, read_architecture(source), _PREFIX, _COLUMNS, RECIPES["int8"], tmp_path / "model.packed")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        (tmp_path / "model.packed").unlink()
    layer = 4 * 256 * 256 + 3 * 256 * 1024  # bytes of one, as integers
    assert peaks[1] - peaks[0] < layer / 2
