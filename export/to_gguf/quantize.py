"""llama.cpp's quantizer in a subprocess, which can be interrupted and returns its memory."""

import ctypes
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from guardpass.engines.hardware import usable_cores
from guardpass.engines.llamacpp.library import library
from guardpass.errors import CheckpointError, InputError

# llama_ftype; None is written as it is, without the quantizer.
QUANTS: dict[str, int | None] = {
    "f32": None,
    "f16": None,
    "bf16": None,
    "q8_0": 7,
    "q6_k": 18,
    "q5_k_m": 17,
    "q4_k_m": 15,
    "q4_0": 2,
    "iq4_nl": 25,
}
_BLOCK = 32  # the least that a row is cut into; k-quants want 256, and llama.cpp puts a kindred type where they fail
_BUFFER = 1 << 26  # bytes of rows in memory at once
_STEP = re.compile(rb"\[ *(\d+)/ *(\d+)\]")


def check_blocks(quant: str, shapes: dict[str, tuple[int, ...]]) -> None:
    """Raises InputError for a quant that cannot hold these tensors."""
    unfit = {name: shape for name, shape in shapes.items() if len(shape) > 1 and shape[1] % _BLOCK}
    if QUANTS[quant] is not None and unfit:
        name, shape = next(iter(unfit.items()))
        raise InputError(
            f"quant {quant} cannot hold {name} and {len(unfit) - 1} others: rows of {shape[1]} are not whole blocks of "
            f"{_BLOCK}; choose f16, bf16 or f32"
        )


def quantize(source: Path, target: Path, quant: str, advance: Callable[[float], None]) -> None:
    """Quantize a GGUF. advance gets the share of the tensors that is done. Raises CheckpointError."""
    command = [sys.executable, "-m", __name__, str(source), str(target), str(QUANTS[quant]), str(usable_cores())]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
        assert child.stderr
        try:
            last = b""
            for line in child.stderr:
                last = line.strip() or last
                if step := _STEP.search(line):
                    advance(int(step[1]) / int(step[2]))
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        raise CheckpointError(f"llama.cpp cannot quantize this model to {quant}: {last.decode(errors='replace')}")


def _main() -> int:
    source, target, kind, threads = sys.argv[1:]
    llama = library()
    # Restore llama.cpp's log, which is stderr.
    llama.llama_log_set(llama.llama_log_callback(), None)
    options = llama.llama_model_quantize_default_params()
    options.ftype, options.nthread, options.max_buf_size = int(kind), int(threads), _BUFFER
    return int(llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(options)))


if __name__ == "__main__":
    sys.exit(_main())
