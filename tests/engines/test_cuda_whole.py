"""Guards exported for CUDA in fp32, run by the engine for CUDA on the CPU, beside the same guards for the CPU."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from guardpass import Guard, InputError
from guardpass.engines.onnx.cpu import OnnxEngine
from guardpass.engines.onnx.cuda import CudaEngine
from guardpass.engines.onnx.cuda_session import ON_CPU

from ..support.engines import engine_of, put_engine
from ..support.helpers import planner, texts
from ..support.twins import Twins

# float32 sums in another order, through three or four layers; scores are some units.
CLOSE = {"rtol": 1e-3, "atol": 1e-3}
TWINS = ("kanana-safeguard-8b", "shieldgemma-2b", "wildguard-ko-3b")  # one slot, policies and windows, a tree of seven


@pytest.fixture(scope="module")
def both(twins: Twins) -> Callable[[str], tuple[Path, Path]]:
    """A tiny twin for the CPU and for CUDA."""
    return lambda name: (twins.guard(name), twins.guard(name, device="cuda"))


@pytest.mark.parametrize("name", TWINS)
def test_padded_batches_score_as_the_cpu_guard_does(name: str, both: Callable[[str], tuple[Path, Path]]) -> None:
    plain, made = both(name)
    guard = Guard.load(plain, threads=1, normalize="off")
    engine = CudaEngine(made / "model.onnx", guard.manifest, provider=ON_CPU)
    plans = [planner(guard, mode) for mode in guard.manifest.modes]
    given = [
        plan.plan(plan.span(dict.fromkeys(("prompt", "response"), text)))
        for plan in plans
        for text in texts(14, seed=2)
    ]
    assert len({request.tokens.size for request in given}) > 5
    for found, request in zip(engine.run_batch(given), given, strict=True):
        np.testing.assert_allclose(found, engine_of(guard).run(request), **CLOSE)


def test_policies_of_one_guard_stand_side_by_side(both: Callable[[str], tuple[Path, Path]]) -> None:
    """Passes of one slot and of several in one batch, through the queue."""
    plain, made = both("shieldgemma-2b")
    with (
        Guard.load(plain, threads=1, normalize="off") as expected,
        Guard.load(made, threads=1, device="cpu", normalize="off") as guard,
    ):
        assert isinstance(engine_of(guard), OnnxEngine)  # asked for: not padded, one pass at a time
        names = [slot.field for slot in guard.manifest.modes["prompt"].tree.slots]
        asked = [None, names[:1], names[1:3], names[-1:]]
        on_cpu = [guard.check("text", policies=each) for each in asked]
        put_engine(guard, CudaEngine(made / "model.onnx", guard.manifest, provider=ON_CPU))
        futures = [guard.submit("text", policies=each) for each in asked]
        for each, plainly, future in zip(asked, on_cpu, futures, strict=True):
            wanted, found = expected.check("text", policies=each), future.result(60)
            for one in (plainly, found):
                assert one.fields.keys() == wanted.fields.keys()
                assert one.score == pytest.approx(wanted.score, abs=1e-3)


def test_bf16_is_not_run_on_the_cpu(twins: Twins) -> None:
    made = twins.guard("kanana-safeguard-8b", "bf16", device="cuda")
    with pytest.raises(InputError, match="device is 'cpu', and this guard was exported for 'cuda' in bf16"):
        Guard.load(made, device="cpu", normalize="off")
