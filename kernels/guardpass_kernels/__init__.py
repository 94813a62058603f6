"""The guard pass in fused native code for CPUs: what guardpass's engine `native` runs on."""

from ._native import Cache, Model, Stop, Stopped, level, levels, peak

__all__ = ["Cache", "Model", "Stop", "Stopped", "level", "levels", "peak"]
