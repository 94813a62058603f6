"""The guard pass in fused native code for CPUs: what guardpass's engine `native` runs on."""

from ._native import Model, level, levels, peak

__all__ = ["Model", "level", "levels", "peak"]
