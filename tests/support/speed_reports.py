"""A report as a run might give it: many contenders, one of them ahead of guardpass, one skipped."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from guardpass.bench.speed.report.schema import (
    SCHEMA,
    Contender,
    Cost,
    Environment,
    Fidelity,
    Latency,
    Offline,
    Peaks,
    Rate,
    Report,
    Skipped,
)
from guardpass.bench.speed.report.statistics import paired_ratio, summary

SUBJECT = "kanana-safeguard-prompt-2.1b"
LENGTHS = (16, 32, 64, 128, 256, 512, 1024)
HERE = Environment(
    date="2026-11-22T09:42:31+00:00",
    commit="73005b4c0ffe",
    cpu="Intel(R) Xeon(R) Processor",
    flags=("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16"),
    memory_gb=25.3,
    cores=2,
    affinity=(0, 1),
    governor="",
    python="3.11.7",
    versions={"guardpass": "0.1.0", "onnxruntime": "1.31.1"},
)
# Engine, setting, quant, prefix kept; ms of a request whatever its length, ms a token; MB; agreement.
ENGINES = (
    ("guardpass", "int8", "int8", True, 14.0, 5.6, 2170.0, 0.992),
    ("guardpass", "int4", "int4", True, 20.0, 9.4, 1490.0, 0.975),
    ("guardpass", "fp32", "fp32", True, 40.0, 22.0, 8340.0, 1.0),
    ("llama.cpp", "q8_0", "q8_0", False, 330.0, 12.1, 2230.0, 0.998),
    ("llama.cpp", "q8_0, prefix kept", "q8_0", True, 30.0, 12.2, 2230.0, 0.998),
    ("llama.cpp", "q4_k_m, prefix kept", "q4_k_m", True, 28.0, 11.6, 1330.0, 0.979),
    ("transformers", "bf16, generate", "bf16", False, 420.0, 14.0, 4190.0, 0.995),
    ("transformers", "bf16, logits_to_keep=1", "bf16", False, 350.0, 13.1, 4190.0, 0.995),
    ("onnxruntime-genai", "int4", "int4", False, 260.0, 9.7, 1650.0, 0.964),
    ("openvino", "int8, group 64", "int8", False, 150.0, 5.2, 2140.0, 0.990),
    ("openvino", "int4, group 64", "int4", False, 170.0, 5.9, 1310.0, 0.951),
    ("vllm", "W8A8, prefix caching", "int8", True, 18.0, 5.0, 2200.0, 0.988),
)


def report(lengths: Sequence[int] = LENGTHS, turns: int = 80, seed: int = 0, speedup: float = 1.0) -> Report:
    """speedup: of guardpass, by which its times are shorter."""
    rng = np.random.default_rng(seed)
    latency, cost, fidelity, rates, offline = [], [], [], [], []
    drift = {length: 1 + 0.03 * rng.standard_normal(turns) for length in lengths}
    first: dict[int, list[float]] = {}
    for engine, setting, quant, kept, fixed, each, size, agreement in ENGINES:
        who = Contender(engine, setting, quant, SUBJECT, "twin", None, 2, kept)
        for length in lengths:
            ms = (fixed + each * length) / (speedup if engine == "guardpass" else 1)
            samples = (ms * drift[length] * (1 + rng.gamma(1.5, 0.01, turns))).tolist()
            ratio, interval = paired_ratio(samples, first.setdefault(length, samples))
            split = {"tokenize": 0.12, "pass": ms * 0.995, "rest": 0.2} if engine == "guardpass" else {}
            run = length + 6 if kept else length + 60
            peaks = rng.uniform(700, 1500, turns)  # GOP/s
            share, share_interval = paired_ratio(3.6e3 * run / peaks, samples)
            latency.append(
                Latency(
                    who,
                    HERE,
                    "prompt",
                    length,
                    length + 60,
                    run,
                    summary(samples),
                    tuple(samples),
                    ratio,
                    interval,
                    split,
                    3.6e9 * run,
                    tuple(peaks.tolist()),
                    share,
                    share_interval,
                )
            )
        cost.append(
            Cost(who, HERE, size / 900, size / 500, size * 1.2, size * 1.5, size, None if quant == "bf16" else 50.0)
        )
        fidelity.append(Fidelity(who, HERE, 628, agreement, None if agreement == 1 else 3 * (1 - agreement) + 0.02))
        service = fixed + each * 64
        capacity, chosen = 1e3 / service, 0.0
        for share in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9):
            waits = service * (1 + rng.exponential(share**2 / (1 - share), 400))
            held = float(np.quantile(waits, 0.95)) <= 1500
            chosen = max(chosen, share * held)
            rates.append(
                Rate(
                    who,
                    HERE,
                    64,
                    share * capacity,
                    0,
                    share * capacity * 0.99,
                    1500.0,
                    held,
                    False,
                    summary(waits),
                    tuple(waits.tolist()),
                )
            )
        rates[-6:] = [replace(row, chosen=row.rate == chosen * capacity) for row in rates[-6:]]
        offline.append(Offline(who, HERE, 64, 100, 100 / capacity, capacity))
    peaks = Peaks(HERE, 2, 1190.0, 320.0, 148.0, 21.5, {"int8": "onnxruntime MatMulInteger", "fp32": "numpy"})
    lost = Skipped(HERE, "zendnn", "bf16", SUBJECT, "no wheel for | this platform", "pip install zentorch\n")
    command = f"guardpass bench {SUBJECT} --peers all"
    return Report(
        SCHEMA, command, tuple(latency), tuple(cost), tuple(fidelity), tuple(rates), tuple(offline), (peaks,), (lost,)
    )
