"""Graphs for CUDA, run on the CPU: transformers' scores in each precision, whatever stands beside, each node placed."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from guardpass.errors import CheckpointError, InputError
from guardpass.export.checkpoint.config import read_architecture
from guardpass.export.checkpoint.files import Checkpoint
from guardpass.export.targets import check_fits, choose
from guardpass.export.to_onnx.cuda_emulation import widened
from guardpass.export.to_onnx.cuda_recipes import RECIPES

from ..support.cuda_kernels import misplaced
from ..support.half import BAKED, ROWS, Floats, Made, made, opened, padded, request, requests, scores
from ..support.models import MODELS

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
baked_or_not = pytest.mark.parametrize("baked", [True, False], ids=["baked", "not baked"])


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(request.param, tmp_path_factory.mktemp("model"))


def _off(found: list[Floats], expected: list[Floats]) -> float:
    """The distance of scores, as a share of their size."""
    both = np.concatenate(found), np.concatenate(expected)
    return float(np.linalg.norm(both[0] - both[1]) / np.linalg.norm(both[1]))


@baked_or_not
def test_fp32_equals_transformers(model: Made, baked: bool, tmp_path: Path) -> None:
    """Trees, chains and padding side by side, with windows and softcaps where the architecture has them."""
    passes = requests(baked)
    found = scores(opened(model.graph("fp32", tmp_path, baked)), passes)
    for one, each in zip(passes, found, strict=True):
        np.testing.assert_allclose(each, model.logits(one), atol=1e-4)


@pytest.mark.parametrize("quant", RECIPES)
def test_a_pass_knows_neither_company_nor_padding(model: Made, quant: str, tmp_path: Path) -> None:
    """Alone and unpadded, in two orders, and padded further. Sums in another order may round another way, no more."""
    session = opened(model.graph(quant, tmp_path), wide=True)
    passes = requests(True)
    alone = [scores(session, [one], one.tokens.size, one.slots.size)[0] for one in passes]
    near = 1e-5 if quant == "fp32" else 0.02
    for found in (
        scores(session, passes),
        scores(session, passes[::-1], 64, 5)[::-1],
        [scores(session, [one, passes[0], passes[2]], 56)[0] for one in passes],
    ):
        assert _off(found, alone) < near


def test_what_is_padded_is_never_read(model: Made, tmp_path: Path) -> None:
    """Other tokens and positions in the padding, other requests beside: not a bit moves at the same shape."""
    session, passes = opened(model.graph("bf16", tmp_path), wide=True), requests(True)
    feeds = padded(passes, 48, 4)
    (before,) = session.run(["scores"], feeds)
    size = passes[0].tokens.size
    feeds["tokens"][0, size:], feeds["positions"][0, size:] = 250, 400
    feeds["tokens"][1:], feeds["positions"][1:] = 99, 3
    (after,) = session.run(["scores"], feeds)
    np.testing.assert_array_equal(before[0], after[0])
    assert np.abs(before[1:] - after[1:]).max() > 0


@pytest.mark.parametrize("quant", _HALF)
def test_16_bits_are_no_worse_than_transformers(model: Made, quant: str, tmp_path: Path) -> None:
    """Off float32 by at most 1.25 times what transformers is in the same type, and by less than 5 % of the scores."""
    passes = requests(True)
    full = [model.logits(one) for one in passes]
    half = [model.logits(one, _HALF[quant]) for one in passes]
    found = scores(opened(model.graph(quant, tmp_path), wide=True), passes)
    theirs, ours = _off(half, full), _off(found, full)
    assert ours < 1.25 * theirs
    assert ours < {"bf16": 0.05, "fp16": 0.01}[quant]


def test_fp16_runs_as_it_is_on_the_cpu(model: Made, tmp_path: Path) -> None:
    """In the operators that ONNX Runtime itself chooses there."""
    passes = requests(True)
    path = model.graph("fp16", tmp_path)
    assert _off(scores(opened(path), passes), [model.logits(one) for one in passes]) < 0.01


@pytest.mark.parametrize("quant", RECIPES)
@baked_or_not
def test_every_node_has_a_kernel_on_cuda(model: Made, quant: str, baked: bool, tmp_path: Path) -> None:
    """One that had none would run on the CPU, with copies to it and back; ONNX Runtime would not say so."""
    assert list(misplaced(onnx.load(model.graph(quant, tmp_path, baked), load_external_data=False))) == []


def test_a_misplaced_node_is_found(model: Made, tmp_path: Path) -> None:
    whole = onnx.load(model.graph("bf16", tmp_path), load_external_data=False)
    whole.graph.node.append(helper.make_node("Shape", ["tokens"], ["shape"], name="shape"))
    whole.graph.node.append(helper.make_node("Less", ["embed.rows", "embed.rows"], ["less"], name="less"))
    assert list(misplaced(whole)) == ["shape: no kernel of .Shape", "less: Less of ['BFLOAT16']"]


@pytest.mark.parametrize("baked", range(0, 20, 5))
def test_attention_stays_fused(baked: int, tmp_path: Path) -> None:
    """The fused kernel wants columns in multiples of 8: the graph fills up what is baked, the runtime the tokens."""
    model = made("llama", tmp_path)
    graph = onnx.load(
        (replaced := Made(model.name, model.checkpoint, model.prefix[:baked], None)).graph("bf16", tmp_path)
    )
    past = [each.dims for each in graph.graph.initializer if each.name.endswith("_prefix")]
    assert len(past) == (8 if baked else 0)
    assert {(dims[0], dims[2] % 8) for dims in past} <= {(1, 0)}
    one = request(10, (-1,), (0,), baked, baked)
    found = scores(opened(replaced.graph("fp32", tmp_path)), [one])
    np.testing.assert_allclose(found[0], Made("", tmp_path, model.prefix, model.model).logits(one), atol=1e-3)


@pytest.mark.parametrize("quant", _HALF)
def test_weights_are_the_checkpoints_own(quant: str, tmp_path: Path) -> None:
    """Bit for bit where it has the type."""
    model = made("llama", tmp_path)
    model.model.to(_HALF[quant]).save_pretrained(tmp_path)
    graph = onnx.load(model.graph(quant, tmp_path))
    tensors = Checkpoint(tmp_path).tensors
    dtype = np.dtype(ml_dtypes.bfloat16) if quant == "bf16" else np.dtype(np.float16)
    held = {each.name: numpy_helper.to_array(each) for each in graph.graph.initializer}
    for name, tensor in tensors.items():
        if name == "lm_head.weight":
            continue
        stored = held["embedding" if "embed_tokens" in name else name]
        assert stored.dtype == tensor.dtype == dtype
        expected = tensor.raw(0, tensor.shape[0])
        np.testing.assert_array_equal(stored, expected.T if "_proj" in name else expected)
    assert held["verdict_head"].dtype == np.float32
    np.testing.assert_array_equal(held["verdict_head"], tensors["lm_head.weight"].rows(0, ROWS).T)


@pytest.mark.parametrize(
    ("name", "quant", "says"),
    [
        ("gemma2", "fp16", "quant fp16 is refused for this architecture: Gemma 2's activations grow beyond 65504"),
        ("llama", "int8", r"quant int8 is refused on cuda: .*DynamicQuantizeMatMul\); use one of: bf16, fp16, fp32"),
        ("llama", "int4", r"quant int4 is refused on cuda: .*; use one of: bf16, fp16, fp32, or --device cpu"),
        ("llama", "fp8", r"quant fp8 is refused on cuda: .*; use one of: bf16, fp16, fp32, or --device cpu"),
        ("llama", "q8_0", r"quant is 'q8_0', expected one of: bf16, fp16, fp32 \(of engine onnx on cuda\)"),
    ],
)
def test_precisions_that_are_refused(name: str, quant: str, says: str, tmp_path: Path) -> None:
    shape = read_architecture(Checkpoint(made(name, tmp_path).checkpoint))
    with pytest.raises(InputError, match=says):
        check_fits(choose("onnx", quant, "own", "cuda"), shape)
    check_fits(choose("auto", "bf16", "own", "cuda"), shape)
    with pytest.raises(InputError, match="expected one of: fp32, int8, int4"):
        check_fits(choose("onnx", "bf16", "own"), shape)


@pytest.mark.parametrize("options", [("native", None, "own"), ("gguf", None, "own"), ("onnx", "fp32", "optimum")])
def test_routes_that_are_refused(options: tuple[str, str | None, str]) -> None:
    with pytest.raises(InputError, match="expected onnx and own, which alone are exported for CUDA"):
        choose(*options, "cuda")
    with pytest.raises(InputError, match="device is 'tpu', expected one of: cpu, cuda"):
        choose(*options, "tpu")


@pytest.mark.parametrize("name", ["mlp.down_proj", "input_layernorm"])
def test_weights_beyond_float16_are_refused(name: str, tmp_path: Path) -> None:
    model = made("llama", tmp_path / "model")
    model.model.get_submodule(f"model.layers.0.{name}").weight.data.view(-1)[3] = 1e5
    model.model.save_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match=rf"layers\.0\.{name}.* holds values beyond float16; .* with bf16"):
        model.graph("fp16", tmp_path)
    model.graph("bf16", tmp_path)


def test_what_is_run_on_the_cpu_is_rounded() -> None:
    """ONNX Runtime does not take the casts between two operators for nothing."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.BFLOAT16),
        helper.make_node("Add", ["half", "small"], ["sum"], name="add"),
        helper.make_node("Mul", ["sum", "one"], ["product"], name="mul"),
        helper.make_node("Cast", ["product"], ["y"], to=TensorProto.FLOAT),
    ]
    constants = [
        numpy_helper.from_array(np.array(each, ml_dtypes.bfloat16), name)
        for name, each in (("small", 1 / 512), ("one", 1.0))
    ]
    ends = [value("x", TensorProto.FLOAT, [2])], [value("y", TensorProto.FLOAT, [2])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", *ends, constants), opset_imports=[helper.make_opsetid("", 24)], ir_version=11
    )
    session = onnxruntime.InferenceSession(widened(model).SerializeToString())
    (found,) = session.run(None, {"x": np.array([1, 1.0078125], np.float32)})
    np.testing.assert_array_equal(found, [1, 1.0078125])  # each sum is a quarter of a step up


def test_baked_columns_of_the_tests_need_filling() -> None:
    assert BAKED % 8
