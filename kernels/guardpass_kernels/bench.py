"""`python -m guardpass_kernels.bench`: the GEMM and a whole pass against the int8 peak measured in the same moments.

The model is a shape with random weights: its verdicts mean nothing, its work is that of a guard of that size.
"""

import argparse
import platform
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import Model, level, peak
from .testing import gemm_rate

Tensors = dict[str, npt.NDArray[Any]]

# layers, hidden, heads, kv_heads, head_dim, ffn
SHAPES = {"1B": (16, 2048, 32, 8, 64, 8192), "2.1B": (32, 1792, 24, 8, 128, 8064), "8B": (32, 4096, 32, 8, 128, 14336)}
PREFIX = 64


def model(shape: str, quant: str, threads: int) -> tuple[Model, int]:
    """A model of random weights, and how many of them a token meets in its layers."""
    layers, hidden, heads, kv_heads, dim, ffn = SHAPES[shape]
    config = {
        "layers": layers, "hidden": hidden, "heads": heads, "kv_heads": kv_heads, "head_dim": dim, "ffn": ffn,
        "vocab": 1000, "columns": 2, "prefix": PREFIX, "context": 1 << 16, "eps": 1e-5, "scale": dim**-0.5,
        "softcap": 0.0, "final_softcap": 0.0, "activation": "silu", "post_norms": False, "head_norms": False,
        "embed_scale": 1.0, "quant": quant, "residual_block": 64, "heads_block": 64, "ffn_block": 64,
        "windows": [0] * layers,
    }  # fmt: skip
    rng = np.random.default_rng(0)
    tensors: Tensors = {
        "embedding": rng.normal(size=(1000, hidden)).astype(np.float16),
        "inv_freq": (10000.0 ** (-np.arange(dim // 2) * 2 / dim)).astype(np.float32),
        "verdict_head": rng.normal(size=(2, hidden)).astype(np.float32),
        "signs.residual": rng.choice([-1.0, 1.0], 64).astype(np.float32),
        "signs.ffn": rng.choice([-1.0, 1.0], 64).astype(np.float32),
        "prefix.positions": np.arange(PREFIX, dtype=np.int32),
    }
    sizes = {
        "self_attn.q_proj": (heads * dim, hidden), "self_attn.k_proj": (kv_heads * dim, hidden),
        "self_attn.v_proj": (kv_heads * dim, hidden), "self_attn.o_proj": (hidden, heads * dim),
        "mlp.gate_up": (2 * ffn, hidden), "mlp.down_proj": (hidden, ffn),
    }  # fmt: skip
    for i in range(layers):
        for name, (n, k) in sizes.items():
            tensors |= {f"model.layers.{i}.{name}.{part}": x for part, x in _linear(rng, n, k, quant).items()}
        for part in ("k_prefix", "v_prefix"):
            baked = rng.normal(size=(kv_heads, PREFIX, dim))
            tensors[f"model.layers.{i}.self_attn.{part}"] = baked.astype(np.float32)
    return Model(config, tensors, threads, profile=True), layers * sum(n * k for n, k in sizes.values())


def _linear(rng: np.random.Generator, n: int, k: int, quant: str) -> Tensors:
    count = n * k // (2 if quant == "int4" else 1)
    raw = np.frombuffer(rng.bytes(count + 64), np.uint8)
    raw = raw[-raw.ctypes.data % 64 :][:count]
    scale = np.full(n, 0.5 / 74 / k**0.5, np.float32)
    if quant == "int8":
        weight = raw.view(np.int8).reshape(n // 64, k // 4, 64, 4)
        return {"weight": weight, "scale": scale, "sum": weight.sum((1, 3), dtype=np.int32).reshape(-1)}
    group = rng.integers(1, 17, (n // 64, k // 32, 64)).astype(np.uint8)
    levels = (raw & 15).astype(np.int8) + (raw >> 4).astype(np.int8) - 16
    sums = levels.reshape(n // 64, k // 32, 4, 64, 4).sum((2, 4), dtype=np.int32)
    return {
        "weight": raw.reshape(n // 64, k // 32, 4, 64, 4), "group": group, "scale": scale,
        "sum": (sums * group).sum(1, dtype=np.int32).reshape(-1),
    }  # fmt: skip


def gemm(threads: int, seconds: float) -> None:
    print(f"{'GEMM':24}{'M':>6}{'GOP/s':>9}{'% of peak':>11}")
    for n, k in ((2048, 2048), (16384, 2048), (2048, 8192)):
        for quant in ("int8", "int4"):
            for m in (1, 16, 64, 128, 256, 512):
                shares, rates = [], []
                for _ in range(3):  # peak and GEMM in turn, as a shared machine's speed drifts
                    best = peak(threads, seconds / 4)
                    rates.append(gemm_rate(m, n, k, quant == "int4", threads, 8, seconds))
                    shares.append(100 * rates[-1] / best)
                print(f"{f'{k} -> {n} {quant}':24}{m:6}{max(rates) / 1e9:9.0f}{statistics.median(shares):11.1f}")


@dataclass(frozen=True)
class Turn:
    """One pass: seconds, its share of the peak taken right before it in %, and the seconds of its stages."""

    took: float
    share: float
    stages: dict[str, float]


def passes(shape: str, quants: Sequence[str], threads: int, repeats: int) -> None:
    made = {quant: model(shape, quant, threads) for quant in quants}
    print(f"\n{shape} shape, {PREFIX} baked tokens: ms, % of the peak just before (medians), % of the time by stage")
    rng, order = np.random.default_rng(0), random.Random(0)
    for tokens in (16, 64, 128, 256, 512):
        ids, positions = rng.integers(0, 1000, tokens), PREFIX + np.arange(tokens)
        asked = (ids, positions, np.array([tokens - 1]), np.arange(PREFIX, dtype=np.int32), np.ones((1, 1), np.bool_))
        turns: dict[str, list[Turn]] = {quant: [] for quant in quants}
        for _ in range(repeats):  # in turn, as a shared machine's speed drifts
            for quant in order.sample(list(quants), len(quants)):
                native, weights = made[quant]
                most = peak(threads, 0.05)
                native.profile()
                began = time.perf_counter()
                native.run(*asked)
                took = time.perf_counter() - began
                turns[quant].append(Turn(took, 100 * 2 * weights * tokens / took / most, native.profile()))
        for quant, found in turns.items():
            _tell(tokens, quant, found, turns[quants[0]])


def _tell(tokens: int, quant: str, turns: Sequence[Turn], first: Sequence[Turn]) -> None:
    """A line: times, shares, the ratio to the first quant's time of the same turns, and stages."""
    best = min(turns, key=lambda turn: turn.took)
    took, share = statistics.median(turn.took for turn in turns), statistics.median(turn.share for turn in turns)
    ratio = statistics.median(turn.took / other.took for turn, other in zip(turns, first, strict=True))
    stages = [f"{name} {100 * s / best.took:.1f}" for name, s in best.stages.items() if s / best.took > 0.0005]
    times = f"{took * 1e3:7.1f} ms (least {best.took * 1e3:.1f})"
    print(f"T={tokens:4} {quant} {times} {share:5.1f} %, x {ratio:.2f}  {', '.join(stages)}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m guardpass_kernels.bench", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="1B")
    parser.add_argument("--quant", choices=("int8", "int4"), nargs="+", default=["int8", "int4"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each GEMM measurement")
    parser.add_argument("--only", choices=("gemm", "pass"))
    given = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, level {level()}, {given.threads} threads, ", end="")
    print(f"int8 peak {peak(given.threads, 0.5) / 1e9:.0f} GOP/s")
    if given.only != "pass":
        gemm(given.threads, given.seconds)
    if given.only != "gemm":
        passes(given.shape, given.quant, given.threads, given.repeats)


if __name__ == "__main__":
    main()
