"""Single kernels at any level this CPU runs, for tests: arrays in, arrays out."""

from ._native.testing import attention, gemm, gemm_rate, head, quantize

__all__ = ["attention", "gemm", "gemm_rate", "head", "quantize"]
