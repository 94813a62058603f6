"""The machine's peaks: its fastest matrix product at each precision, and its memory bandwidth."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from guardpass.engines.native import library

from ..report.schema import Peaks
from .environment import environment
from .int8_peak import peak_of

_SIZES = ((512, 2048, 2048), (512, 2048, 8192))  # M, K, N: a long prefill's, in L2 and beyond
_SECONDS = 0.4  # of each
_READ_MB = 512


def peaks(threads: int) -> Peaks:
    """Measure peaks for a few seconds on `threads` cores, with the fastest product at hand of each precision.

    Where guardpass-kernels is installed, the int8 peak is that of the circuits: its products never leave registers. A
    library's product bounds what libraries reach; an engine with kernels of its own may exceed it.
    """
    best: dict[str, tuple[float, str]] = {}
    for kind, name, product in _products(threads):
        gops = max(_gops(product(m, k, n), 2.0 * m * k * n) for m, k, n in _SIZES)
        best[kind] = max(best.get(kind, (0.0, "")), (gops, name))
    if peak := peak_of(threads, _SECONDS):
        name = f"guardpass-kernels, {library().level()} in registers"
        best["int8"] = max(best.get("int8", (0.0, "")), (peak(), name))
    return Peaks(
        environment=environment({}),
        threads=threads,
        int8=best["int8"][0] if "int8" in best else None,
        bf16=best["bf16"][0] if "bf16" in best else None,
        fp32=best["fp32"][0] if "fp32" in best else None,
        read_gb_s=_read(),
        by={kind: name for kind, (_, name) in best.items()} | {"read": f"numpy's sum of {_READ_MB} MB, one thread"},
    )


Product = Callable[[int, int, int], Callable[[], object]]


def _products(threads: int) -> Iterator[tuple[str, str, Product]]:
    if find_spec("onnxruntime"):
        yield "int8", "ONNX Runtime, DynamicQuantizeMatMul", lambda m, k, n: _onnx(m, k, n, threads, int8=True)
        yield "fp32", "ONNX Runtime, MatMul", lambda m, k, n: _onnx(m, k, n, threads, int8=False)
    if find_spec("torch"):
        yield "int8", "torch._int_mm (oneDNN)", lambda m, k, n: _torch(m, k, n, threads, "int8")
        yield "bf16", "torch.mm (oneDNN)", lambda m, k, n: _torch(m, k, n, threads, "bfloat16")
        yield "fp32", "torch.mm (MKL or OpenBLAS)", lambda m, k, n: _torch(m, k, n, threads, "float32")


def _onnx(m: int, k: int, n: int, threads: int, *, int8: bool) -> Callable[[], object]:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights: list[tuple[str, npt.NDArray[Any]]]
    if int8:
        weights = [("b", rng.integers(-127, 128, (k, n)).astype(np.int8)), ("s", np.full(n, 0.01, np.float32))]
        node = helper.make_node("DynamicQuantizeMatMul", ["a", "b", "s"], ["y"], domain="com.microsoft")
    else:
        weights = [("b", rng.standard_normal((k, n), np.float32))]
        node = helper.make_node("MatMul", ["a", "b"], ["y"])
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "peak",
        [value("a", TensorProto.FLOAT, [m, k])],
        [value("y", TensorProto.FLOAT, [m, n])],
        [numpy_helper.from_array(array, name) for name, array in weights],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = {"a": rng.standard_normal((m, k), np.float32)}
    return lambda: session.run(None, feeds)


def _torch(m: int, k: int, n: int, threads: int, kind: str) -> Callable[[], object]:
    import torch

    def product() -> object:
        with _threads(threads):
            return torch._int_mm(a, b) if kind == "int8" else torch.mm(a, b)

    if kind == "int8":
        a, b = torch.randint(-127, 128, (m, k), dtype=torch.int8), torch.randint(-127, 128, (k, n), dtype=torch.int8)
    else:
        a, b = torch.randn(m, k).to(getattr(torch, kind)), torch.randn(k, n).to(getattr(torch, kind))
    return product


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _gops(product: Callable[[], object], operations: float) -> float:
    """GOP/s of the fastest call."""
    product()
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - start)
    return operations / best / 1e9


def _read() -> float:
    """GB/s that one thread reads, from beyond the caches where the machine has the memory."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    data = np.ones(max(1 << 20, min(_READ_MB << 20, free)) // 8)
    best = min(_seconds(data.sum) for _ in range(4))
    return data.nbytes / best / 1e9


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
