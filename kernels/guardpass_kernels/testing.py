"""Single kernels at any level this CPU runs, for tests: arrays in, arrays out."""

from ._native.testing import attention, gemm, head, quantize

__all__ = ["attention", "gemm", "head", "quantize"]
