"""Single kernels at any level this CPU runs, for tests and for `bench`: arrays in, arrays out."""

from ._native import testing as _testing

attention = _testing.attention
gemm = _testing.gemm
gemm_rate = _testing.gemm_rate
head = _testing.head
quantize = _testing.quantize

__all__ = ["attention", "gemm", "gemm_rate", "head", "quantize"]
