from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

class Stopped(Exception):
    """Of a pass that was asked to stop."""

class Stop:
    """How another thread asks a pass to end, which then raises Stopped within a layer.

    One that waits for another thread's pass does when that is done.
    """

    def set(self) -> None: ...

class Cache:
    """Keys and values of a span that grows. `Model.cache` makes it."""

    @property
    def kept(self) -> int:
        """Tokens that the last pass with it did not run."""

class Model:
    """A decoder over arrays that it keeps and reads in place. Raises ValueError for what does not fit the config."""

    def __init__(
        self, config: dict[str, Any], tensors: dict[str, Array], threads: int, *, profile: bool = False
    ) -> None: ...
    def run(
        self,
        tokens: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
        slots: npt.NDArray[np.int64],
        chain: npt.NDArray[np.int32],
        sees: npt.NDArray[np.bool_],
        *,
        cache: Cache | None = None,
        stop: Stop | None = None,
    ) -> npt.NDArray[np.float32]:
        """Scores [S, V'] of one pass. Without the GIL; passes of several threads run one after the other.

        cache: of this model. The beginning of the span that the last pass with it had too is not run again; the scores
        are the same bits. stop: raises Stopped once it is set and the pass has begun; a cache then keeps what the pass
        found in it.
        """

    def cache(self, capacity: int) -> Cache:
        """For passes of up to `capacity` tokens. Memory is used as they come to need it."""

    def profile(self) -> dict[str, float]:
        """Seconds by stage since the last call; all 0 unless made with `profile=True`."""

class testing:
    @staticmethod
    def quantize(level: str, x: Array, signs: Array, normed: bool, eps: float) -> tuple[Array, Array]: ...
    @staticmethod
    def gemm(
        level: str, levels: Array, scales: Array, layer: dict[str, Array], n: int, k: int, epilogue: str, out: Array
    ) -> Array: ...
    @staticmethod
    def head(level: str, x: Array, angles: Array, gain: Array, eps: float, factor: float) -> Array: ...
    @staticmethod
    def attention(
        level: str, queries: Array, keys: Array, values: Array, sees: Array, scale: float, softcap: float
    ) -> Array: ...
    @staticmethod
    def gemm_rate(m: int, n: int, k: int, int4: bool, threads: int, layers: int, seconds: float) -> float: ...

def level() -> str: ...
def levels() -> list[str]: ...
def peak(threads: int, seconds: float) -> float: ...
