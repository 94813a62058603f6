"""A checkpoint as compressed-tensors has W8A8, which vLLM reads: matrices of the layers in int8, a scale per output
channel; activations to be quantized per token as they come; embedding, head and norms as they are.

`python w8a8.py CHECKPOINT OUT`. A tensor at a time is in memory.
"""

import json
import math
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from guardpass.export.checkpoint.files import Array, Checkpoint, Tensor

_INT8 = {"num_bits": 8, "type": "int", "symmetric": True, "group_size": None, "actorder": None}
_SCHEME: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "global_compression_ratio": None,
    "kv_cache_scheme": None,
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": _INT8 | {"strategy": "channel", "dynamic": False, "observer": "minmax"},
            "input_activations": _INT8 | {"strategy": "token", "dynamic": True, "observer": None},
            "output_activations": None,
        }
    },
}


def main() -> None:
    """Write the checkpoint that the command line names."""
    write_w8a8(Path(sys.argv[1]), Path(sys.argv[2]))


def write_w8a8(checkpoint: Path, out: Path) -> None:
    """Write `out`, a checkpoint in one file, into an existing folder. Raises CheckpointError."""
    source = Checkpoint(checkpoint)
    entries = [entry for tensor in source.tensors.values() for entry in _entries(tensor)]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in entries:
        end = offset + entry.size
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with (out / "model.safetensors").open("wb") as stream:
        stream.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in source.tensors.values():
            for data in _data(tensor):
                stream.write(data)
    config = source.config | {"quantization_config": _SCHEME}
    (out / "config.json").write_text(json.dumps(config, indent=2))
    for path in source.files():
        if path.name != "config.json" and path.suffix != ".safetensors":
            shutil.copy(path, out)


def quantized(weights: Array) -> tuple[npt.NDArray[np.int8], Array]:
    """[out, in] to integers of at most 127 and scales [out, 1]."""
    scales = np.abs(weights).max(axis=1, keepdims=True) / np.float32(127)
    scales[scales == 0] = 1
    return np.rint(weights / scales).astype(np.int8), scales


@dataclass(frozen=True)
class _Entry:
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * {"I8": 1, "BF16": 2, "F32": 4}[self.dtype]


def _is_linear(tensor: Tensor) -> bool:
    return tensor.name.endswith("_proj.weight")


def _entries(tensor: Tensor) -> list[_Entry]:
    if not _is_linear(tensor):
        return [_Entry(tensor.name, "BF16", tensor.shape)]
    return [
        _Entry(tensor.name, "I8", tensor.shape),
        _Entry(f"{tensor.name}_scale", "F32", (tensor.shape[0], 1)),
    ]


def _data(tensor: Tensor) -> Iterator[bytes]:
    """The bytes of `_entries`, in their order."""
    scales = []
    for start, count in tensor.chunks():
        rows = tensor.rows(start, count)
        if _is_linear(tensor):
            whole, scale = quantized(rows)
            scales.append(scale)
            yield whole.tobytes()
        else:
            yield rows.astype(ml_dtypes.bfloat16).tobytes()
    for scale in scales:
        yield scale.tobytes()


if __name__ == "__main__":
    main()
