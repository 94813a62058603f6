"""Engine native against float32 and against engine onnx: families, trees, architectures; threads, company, overflow."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardpass import Guard
from guardpass.bench.demo.run import CHECKPOINT
from guardpass.bench.twins import find, tiny, write_twin
from guardpass.errors import EngineError, GateError
from guardpass.export import export_guard
from guardpass.export.checkpoint.config import read_architecture
from guardpass.export.checkpoint.files import Checkpoint
from guardpass.export.gate import run as gate_run
from guardpass.export.to_native import packed_writer
from guardpass.export.to_native.linear import RECIPES
from guardpass.export.to_native.write import write_packed
from guardpass.format.codec import encode
from guardpass.format.manifest import Prefix
from guardpass.format.packed import open_tensors
from guardpass.format.packed_config import Config
from guardpass.format.tree import ancestors, depths
from guardpass.plan import Pass

from ..support.broken import copied, seal
from ..support.engines import engine_of
from ..support.helpers import pass_of, texts
from ..support.models import MODELS
from ..support.published import CASES, Case
from ..support.twins import Twins

kernels = pytest.importorskip("guardpass_kernels")

# Of the spread of the float32 scores, on random weights, which forgive little: 1.4 would be those of another function.
_NEAR = {"int8": 0.05, "int4": 0.6}


def _off(found: np.ndarray, expected: np.ndarray) -> float:
    """How far scores are from others, as a share of those's spread."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected - expected.mean()))


# Architectures: random trees, chains and slots over a branching prefix, on every layer that the table knows.

_PREFIX = Prefix(tuple(range(40, 65)), (-1, *range(19), 12, 20, 21, 22, 23))  # two chains that part at 12
_CHAINS = (tuple(range(20)), (*range(13), *range(20, 25)), tuple(range(7)), ())


def _pass(rng: np.random.Generator, text: int, nodes: int, chain: tuple[int, ...]) -> Pass:
    parents = tuple(int(rng.integers(-1, node)) for node in range(nodes))
    total = text + nodes
    positions = np.concatenate([np.arange(text), text + depths(parents)]) + len(chain)
    return Pass(
        tokens=rng.integers(0, 300, (1, total)),
        positions=positions[None].astype(np.int64),
        slots=rng.choice(total, size=(1, int(rng.integers(1, total + 1))), replace=False),
        prefix_columns=chain,
        prefix_len=len(_PREFIX.tokens),
        tree_mask=ancestors(parents) if nodes else np.zeros((0, 0), np.bool_),
    )


def _passes() -> list[Pass]:
    rng = np.random.default_rng(0)
    sizes = ((1, 0), (1, 1), (5, 3), (17, 30), (40, 0), (64, 7), (65, 1))
    return [_pass(rng, text, nodes, chain) for text, nodes in sizes for chain in _CHAINS]


@dataclass(frozen=True)
class _Model:
    path: Path
    config: Config
    reference: list[np.ndarray]

    def run(self, request: Pass, threads: int = 1) -> np.ndarray:
        _, arrays = open_tensors(self.path)
        return _run(kernels.Model(encode(self.config), arrays, threads), request)


def _run(model: Any, request: Pass) -> np.ndarray:
    chain = np.array(request.prefix_columns, np.int32)
    scores: np.ndarray = model.run(request.tokens[0], request.positions[0], request.slots[0], chain, request.tree_mask)
    return scores


@pytest.fixture(scope="module", params=[(kind, quant) for kind in MODELS for quant in RECIPES], ids=" ".join)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> _Model:
    import torch

    kind, quant = request.param
    torch.manual_seed(0)
    made = MODELS[kind]().float().eval()
    for name, parameter in made.named_parameters():
        neutral = 1.0 if parameter.dim() == 1 and "gemma" not in kind else 0.0
        parameter.data = neutral + torch.randn_like(parameter) * (
            0.1 if "embed" in name or parameter.dim() == 1 else 0.15
        )
    directory = tmp_path_factory.mktemp("model")
    made.save_pretrained(directory)
    source, path = Checkpoint(directory), directory / "model.packed"
    shape = read_architecture(source)
    reference = write_packed(source, shape, _PREFIX, range(30), RECIPES[quant], path, judged=_passes())
    return _Model(path, Config.of(open_tensors(path)[0].metadata), reference)


def test_every_architecture_scores_as_its_weights_do(model: _Model) -> None:
    found = [model.run(request) for request in _passes()]
    assert [scores.shape for scores in found] == [scores.shape for scores in model.reference]
    assert _off(np.concatenate(found), np.concatenate(model.reference)) < _NEAR[model.config.quant]


@pytest.mark.serial
def test_a_score_is_the_same_on_any_number_of_threads_and_in_any_company(model: _Model) -> None:
    """Bit for bit: alone, on two and three threads, and with four passes at a time on one model."""
    requests = _passes()
    expected = [model.run(request) for request in requests]
    for threads in (2, 3):
        for request, scores in zip(requests, expected, strict=True):
            np.testing.assert_array_equal(model.run(request, threads), scores)
    _, arrays = open_tensors(model.path)
    shared = kernels.Model(encode(model.config), arrays, 2)
    found: dict[tuple[int, int], np.ndarray] = {}

    def work(who: int) -> None:
        for number in np.random.default_rng(who).permutation(len(requests)):
            found[who, int(number)] = _run(shared, requests[number])

    workers = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 4 * len(requests)
    for (_, number), scores in found.items():
        np.testing.assert_array_equal(scores, expected[number])


def _aligned(x: np.ndarray) -> np.ndarray:
    """A copy at a multiple of 64 bytes."""
    room = np.empty(x.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    copy[:] = x
    return copy


def test_four_bits_score_as_the_same_integers_in_eight(model: _Model) -> None:
    """Bit for bit: two-level scales come to int8 products, so only the storage differs."""
    if model.config.quant == "int8":
        return
    _, arrays = open_tensors(model.path)
    eight = dict(arrays)
    for name in [name for name in arrays if name.endswith(".group")]:
        weight = name.removesuffix("group") + "weight"
        packed, group = arrays[weight].astype(np.int32), eight.pop(name)
        # [panel, group of 32, 4, row, 4] twice: the lower halves of bytes are four columns before the upper.
        levels = np.stack([packed & 15, packed >> 4], axis=3) - 8
        integers = (levels * group[:, :, None, None, :, None]).astype(np.int8)
        panels, groups, _, _, rows, _ = integers.shape
        columns = {"down": model.config.ffn, "o_pr": model.config.heads * model.config.head_dim}
        k = columns.get(name.split(".")[-2][:4], model.config.hidden)
        eight[weight] = _aligned(integers.reshape(panels, groups * 8, rows, 4)[:, : -(-k // 4)])
    twin = kernels.Model(encode(model.config) | {"quant": "int8"}, eight, 1)
    for request in _passes():
        np.testing.assert_array_equal(_run(twin, request), model.run(request))


@settings(max_examples=40)
@given(text=st.integers(1, 70), nodes=st.integers(0, 20), seed=st.integers(0, 999), chain=st.sampled_from(_CHAINS))
def test_a_branch_scores_the_same_whatever_stands_beside_it(
    model: _Model, text: int, nodes: int, seed: int, chain: tuple[int, ...]
) -> None:
    """A slot of the tree, and the same slot where only its own ancestors are run: bit for bit."""
    request = _pass(np.random.default_rng(seed), text, nodes, chain)
    scores = model.run(request)
    slot = int(request.slots[0, -1])
    own = np.flatnonzero(request.tree_mask[slot - text]) if slot >= text else np.zeros(0, np.int64)
    rows = np.concatenate([np.arange(text), text + own])
    alone = Pass(
        request.tokens[:, rows],
        request.positions[:, rows],
        np.flatnonzero(rows == slot)[None],
        chain,
        request.prefix_len,
        request.tree_mask[np.ix_(own, own)],
    )
    np.testing.assert_array_equal(model.run(alone)[0], scores[-1])


def test_without_a_prefix(tmp_path: Path) -> None:
    write_twin(tiny(find("kanana-safeguard-8b")), tmp_path / "twin")
    source, path = Checkpoint(tmp_path / "twin"), tmp_path / "model.packed"
    tokens = np.arange(20)[None]
    request = Pass(tokens, tokens, np.array([[19, 3]]), (), 0, np.zeros((0, 0), np.bool_))
    (reference,) = write_packed(
        source, read_architecture(source), Prefix((), ()), range(9), RECIPES["int8"], path, judged=[request]
    )
    header, arrays = open_tensors(path)
    assert not any("prefix" in name for name in arrays)
    scores = _run(kernels.Model(encode(Config.of(header.metadata)), arrays, 1), request)
    assert _off(scores, reference) < _NEAR["int8"]


# Families: whole guards.

_GUARDS = ("onnx fp32", "onnx int8", "native int8", "native int4")


@pytest.fixture(scope="module")
def exports(twins: Twins) -> Callable[[Case, str], Path]:
    """A case's guard, by engine and quant."""

    def make(case: Case, name: str) -> Path:
        engine, quant = name.split()
        return twins.guard(case.twin, quant, engine=engine, family=case.family, date=case.date)

    return make


def _requests(case: Case, count: int) -> list[tuple[str, str | None]]:
    both = "response" in case.row.modes
    replies = texts(count, seed=6, longest=12)
    return [
        (text, replies[number] if both and number % 2 else None)
        for number, text in enumerate(texts(count, seed=5, longest=30))
    ]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.family)
def test_every_family_scores_as_in_float32(
    case: Case, exports: Callable[[Case, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Native int8 is as near to float32 as ONNX Runtime's, or nearer, and verdicts differ where scores nearly tie."""
    opened = {name: Guard.load(exports(case, name), threads=1, normalize="off") for name in _GUARDS}
    requests = [pass_of(opened["onnx fp32"], *each) for each in _requests(case, 60)]
    scores = {
        name: np.concatenate([engine_of(guard).run(request)[0] for request in requests])
        for name, guard in opened.items()
    }
    expected = scores.pop("onnx fp32")
    off = {name: _off(found, expected) for name, found in scores.items()}
    with capsys.disabled():
        print(f"\n    {case.family}: " + ", ".join(f"{name} {share:.4f}" for name, share in off.items()), end="")
    assert off["native int8"] < max(_NEAR["int8"], 1.2 * off["onnx int8"])
    assert off["native int4"] < _NEAR["int4"]
    for name in ("native int8", "native int4"):
        most = 2 * np.abs(scores[name] - expected).max()
        for text, response in _requests(case, 60):
            before, after = (opened[each].check(text, response) for each in ("onnx fp32", name))
            same = {field: found.label for field, found in before.fields.items() if found} == {
                field: found.label for field, found in after.fields.items() if found
            }
            assert same or min(abs(found.margin) for found in before.fields.values() if found) <= most


def test_policies_of_a_pass_do_not_touch_each_other(exports: Callable[[Case, str], Path]) -> None:
    """Scales are those of a token: a policy's score is the same bits whatever else is asked."""
    case = next(case for case in CASES if case.family == "shieldgemma")
    guard = Guard.load(exports(case, "native int8"), normalize="off")
    for text in texts(10, seed=3):
        both = guard.check(text, policies=["hate", "dangerous"])
        alone = guard.check(text, policies=["hate"])
        assert both.fields["hate"] == alone.fields["hate"]


def test_a_file_written_to_in_place_fails_closed_or_changes_nothing(
    exports: Callable[[Case, str], Path], tmp_path: Path
) -> None:
    guard = copied(exports(CASES[0], "native int8"), tmp_path)
    mapped, held = (
        Guard.load(guard, threads=1, normalize="off"),
        Guard.load(guard, threads=1, in_memory=True, normalize="off"),
    )
    before = held.check("a text")
    assert mapped.check("a text").score == before.score
    with (guard / "model.packed").open("r+b") as file:
        file.seek(guard.joinpath("model.packed").stat().st_size // 2)
        file.write(b"\x3c" * 4096)
    with pytest.raises(EngineError, match="changed under the running guard"):
        mapped.check("a text")
    assert held.check("a text").score == before.score


def test_what_was_judged_before_changes_no_score(exports: Callable[[Case, str], Path]) -> None:
    guard = Guard.load(exports(CASES[0], "native int8"), normalize="off")
    requests = [pass_of(guard, *each) for each in _requests(CASES[0], 20)]
    first = [engine_of(guard).run(request) for request in requests]
    for request, scores in list(zip(requests, first, strict=True))[::-1]:
        np.testing.assert_array_equal(engine_of(guard).run(request), scores)


@pytest.mark.parametrize("quant", RECIPES)
def test_the_gate_runs_the_kernels(quant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the demo guard, which was trained, hardly a verdict flips; a quarter of the texts will do."""
    monkeypatch.setattr(gate_run, "_JUDGED_TOKENS", 3 << 12)
    manifest = export_guard(CHECKPOINT, tmp_path / "guard", engine="native", quant=quant)
    gate = manifest.gate
    assert gate
    assert gate.texts > 60
    assert gate.agreement > (0.985 if quant == "int8" else 0.95)
    assert gate.kl < (0.001 if quant == "int8" else 0.02)


def test_a_broken_guard_does_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_run, "_JUDGED_TOKENS", 1 << 12)
    interleaved = packed_writer.interleaved
    monkeypatch.setattr(packed_writer, "interleaved", lambda gate, up: interleaved(up, gate))
    with pytest.raises(GateError, match=r"judges \d+ of \d+ texts otherwise"):
        export_guard(CHECKPOINT, tmp_path / "guard", engine="native")


@pytest.mark.parametrize("value", [np.inf, np.nan, 3e38])
@pytest.mark.parametrize(
    "name", ["model.layers.0.mlp.down_proj.scale", "verdict_head", "model.layers.1.self_attn.v_prefix"]
)
def test_scores_that_are_not_finite_are_no_verdict(
    name: str, value: float, exports: Callable[[Case, str], Path], tmp_path: Path
) -> None:
    """A guard, vouched for by its manifest, whose weights overflow: an error, never a verdict."""
    copy = copied(exports(CASES[0], "native int8"), tmp_path)
    header, _ = open_tensors(copy / "model.packed")
    start, end = (header.data + at for at in header.entries[name].data_offsets)
    file = bytearray((copy / "model.packed").read_bytes())
    file[start:end] = np.full((end - start) // 4, value, np.float32).tobytes()
    (copy / "model.packed").write_bytes(file)
    seal(copy)
    guard = Guard.load(copy, normalize="off")
    for threshold in (None, 0.5):
        with pytest.raises(EngineError, match="not finite"):
            guard.check("hello", threshold=threshold)
