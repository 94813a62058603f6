"""Tiny twins of published checkpoints with every quirk, and guards of them, each written once a session."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guardpass.bench.twins import Twin, find, tiny, write_twin
from guardpass.export import export_guard

from .published import EVERY

SHARED = Path(__file__).parents[3] / "shared" / "data"  # real tokenizers, where they are at hand

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def _changed(row: Twin, **config: Any) -> Twin:
    """A twin with other config values; None removes a key."""
    merged = {key: value for key, value in (row.config | config).items() if value is not None}
    return replace(row, config=merged)


_8B, _SIREN, _2B = (tiny(find(f"kanana-safeguard-{name}")) for name in ("8b", "siren-8b", "prompt-2.1b"))

PLAIN = "8b: untied, grouped heads, two shards, bf16"  # of both modes
# One checkpoint for every way a published Llama guard differs from the plainest one.
VARIANTS: dict[str, Twin] = {
    PLAIN: _8B,
    "siren: one-sided template": _SIREN,
    "2.1b: tied, heads wider than hidden": _2B,
    "llama3 rope scaling, as transformers 4 writes it": _changed(_8B, rope_scaling=LLAMA3_ROPE),
    "llama3 rope scaling, as transformers 5 writes it": _changed(
        _8B, rope_theta=None, rope_scaling=None, rope_parameters={**LLAMA3_ROPE, "rope_theta": 500000.0}
    ),
    "no head_dim, every head its own keys": _changed(
        replace(_8B, config=_8B.config | {"num_key_value_heads": 4}), num_key_value_heads=4
    ),
    "float16": replace(_changed(_8B, torch_dtype="float16"), dtype="F16"),
    "float32": replace(_changed(_2B, torch_dtype="float32"), dtype="F32"),
}


def wide(row: Twin) -> Twin:
    """A tiny twin whose rows are whole blocks of 256, as k-quants want them."""
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "head_dim": 64}
    return replace(row, config=row.config | sizes | {"num_key_value_heads": 2, "query_pre_attn_scalar": 64})


class Twins:
    """Checkpoints and guards by what they are made of. Tests share them, so a test that changes one copies it."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory, self._written = factory, dict[str, Path]()

    def checkpoint(self, twin: Twin | str, seed: int = 0) -> Path:
        """Of the published guard with that name, made tiny, or of a row as it stands."""
        row = _row(twin)
        key = repr((row, seed))
        if key not in self._written:
            folder = self._factory.mktemp("checkpoint") / "twin"
            write_twin(row, folder, seed=seed)
            self._written[key] = folder
        return self._written[key]

    def guard(self, twin: Twin | str, quant: Any = "fp32", *, seed: int = 0, **options: Any) -> Path:
        """The same, exported with the family and date of its first case, unless the options of export say otherwise."""
        row = _row(twin)
        case = next((case for case in EVERY if case.twin == row.name), None)
        family, date = (case.family, case.date) if case else (row.family, row.date)
        options = {"family": family, "date": date, **options}
        return self.exported(self.checkpoint(row, seed), quant, **options)

    def exported(self, checkpoint: Path, quant: Any, **options: Any) -> Path:
        """Guard directory of a checkpoint, ungated unless the options of export say otherwise."""
        options = {"quant": quant, "engine": "onnx", "gate": False, **options}
        key = repr((checkpoint, sorted(options.items())))
        if key not in self._written:
            folder = self._factory.mktemp("guard") / "guard"
            export_guard(checkpoint, folder, **options)
            self._written[key] = folder
        return self._written[key]


def _row(twin: Twin | str) -> Twin:
    return tiny(find(twin)) if isinstance(twin, str) else twin
