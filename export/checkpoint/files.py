"""A Hugging Face checkpoint on disk, read a few rows at a time."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from guardpass.errors import CheckpointError

Array = npt.NDArray[np.float32]

_DTYPES: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
}
_CHUNK = 4 << 20  # weights converted at a time: small enough to stay in cache, large enough to amortize Python
_SMALL_FILE = 256 << 20
# Of tokenizers that older versions of transformers saved, before tokenizer_config.json said it all.
LEGACY = ("special_tokens_map.json", "added_tokens.json")
TWIN = "twin.json"


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies: dtype, shape, and the byte at which it starts in its file."""

    name: str
    file: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    def raw(self, start: int, count: int) -> npt.NDArray[Any]:
        """Rows [start, start + count) as stored. Read, not mapped, so that they leave memory with the array."""
        width = math.prod(self.shape[1:])
        at = self.offset + start * width * self.dtype.itemsize
        try:
            return np.fromfile(self.file, self.dtype, count * width, offset=at).reshape(count, *self.shape[1:])
        except (OSError, ValueError) as error:  # unreadable, or shorter than when it was opened
            raise CheckpointError(f"cannot read {self.name} from {self.file.name}: {error}") from None

    def rows(self, start: int, count: int) -> Array:
        """Rows as float32. Raises CheckpointError where a value is not finite."""
        return self.widened(self.raw(start, count))

    def widened(self, raw: npt.NDArray[Any]) -> Array:
        """Stored values as float32. Raises CheckpointError where one is not finite."""
        data = _float32(raw)
        # A sum is not finite if any term is not, and costs one read; an overflow of the sum itself is no fault.
        with np.errstate(over="ignore", invalid="ignore"):
            suspicious = not math.isfinite(float(data.sum()))
        if suspicious and not np.isfinite(data).all():
            raise CheckpointError(f"{self.name} in {self.file.name} holds values that are not finite")
        return data

    def chunks(self, multiple: int = 1) -> Iterator[tuple[int, int]]:
        """(start, count) of row ranges that cover the tensor, of whole multiples of rows where those divide it."""
        step = max(1, _CHUNK // max(1, math.prod(self.shape[1:])) // multiple) * multiple
        for start in range(0, self.shape[0], step):
            yield start, min(step, self.shape[0] - start)

    def read(self) -> Array:
        """The whole tensor as float32."""
        return self.rows(0, self.shape[0])

    def pick(self, rows: Sequence[int]) -> Array:
        """Chosen rows as float32, in the given order."""
        return np.concatenate([self.rows(row, 1) for row in rows])


class Folder:
    """The small files of a checkpoint, and what the steps of an export have to report of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        """Report something that is in the checkpoint and not in the guard, or not as its config says."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def has(self, name: str) -> bool:
        """Whether the checkpoint has a file."""
        return (self.directory / name).is_file()

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the checkpoint whose content is an object."""
        try:
            value = json.loads(self.text(name))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{name} is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise CheckpointError(f"{name} holds {type(value).__name__}, expected an object")
        return value

    def text(self, name: str) -> str:
        """A text file of the checkpoint."""
        path = self.directory / name
        try:
            if path.stat().st_size > _SMALL_FILE:
                raise CheckpointError(f"{name} has {path.stat().st_size} bytes, more than any real one")
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"cannot read {name} of the checkpoint: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{name} is not UTF-8: {error.reason}") from None


class Checkpoint(Folder):
    """config.json and the tensors of a checkpoint directory. Opening it reads headers only.

    Raises CheckpointError for files that are missing, corrupt, or contradict each other.
    """

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise CheckpointError(f"{directory} is not a directory; expected a Hugging Face checkpoint")
        super().__init__(directory)
        index = directory / "model.safetensors.index.json"
        single = directory / "model.safetensors"
        if self.has("adapter_config.json") and not (self.has("config.json") and (single.exists() or index.exists())):
            raise CheckpointError(
                f"{directory} holds an adapter (adapter_config.json) and no model: merge it into its base first, with "
                "peft's AutoPeftModelForCausalLM.from_pretrained(...).merge_and_unload().save_pretrained(...), save "
                "the tokenizer beside it, and export that"
            )
        self.config = self.json("config.json")
        if single.exists():  # first, as transformers takes it where both exist
            self.tensors = {t.name: t for t in self._open(single.name)}
        elif index.exists():
            listed = self._shards()
            self.tensors = {t.name: t for shard in sorted(set(listed.values())) for t in self._open(shard)}
            wrong = [name for name, shard in listed.items() if self._file_of(name) != shard]
            if wrong or len(listed) != len(self.tensors):
                raise CheckpointError(
                    f"{index.name} and the shards disagree on {len(listed)} listed and {len(self.tensors)} stored "
                    f"tensors ({', '.join(wrong[:3]) or 'more stored than listed'}); download the checkpoint again"
                )
        else:
            raise CheckpointError(f"{directory} has neither {single.name} nor {index.name}; other formats are refused")

    def files(self) -> list[Path]:
        """Every file a guard is made from."""
        names = ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", *LEGACY, TWIN]
        names.append("additional_chat_templates/default.jinja")
        present = [self.directory / name for name in names if (self.directory / name).exists()]
        return present + sorted({tensor.file for tensor in self.tensors.values()})

    def _file_of(self, name: str) -> str | None:
        return self.tensors[name].file.name if name in self.tensors else None

    def _shards(self) -> dict[str, str]:
        index = self.json("model.safetensors.index.json").get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(shard, str) for shard in index.values()):
            raise CheckpointError("model.safetensors.index.json has no weight_map of file names")
        for shard in set(index.values()):
            if Path(shard).name != shard or not shard.endswith(".safetensors"):
                raise CheckpointError(
                    f"model.safetensors.index.json names {shard!r}, expected a plain .safetensors name"
                )
        return index

    def _open(self, name: str) -> list[Tensor]:
        from safetensors import SafetensorError, safe_open

        path = self.directory / name
        if not path.is_file():
            raise CheckpointError(f"{name} is missing from {self.directory}; download the checkpoint again")
        try:
            # The library proves the header: its length, no overlap, no gap, nothing past the end of the file.
            with safe_open(path, framework="np"):
                pass
        except (SafetensorError, OSError, ValueError, MemoryError) as error:
            raise CheckpointError(f"{name} is not a valid safetensors file: {error}") from None
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return [self._tensor(path, key, entry, 8 + length) for key, entry in header.items()]

    @staticmethod
    def _tensor(path: Path, name: str, entry: dict[str, Any], base: int) -> Tensor:
        if entry["dtype"] not in _DTYPES:
            raise CheckpointError(
                f"{name} in {path.name} is {entry['dtype']}, expected one of {', '.join(_DTYPES)}; "
                "export from the original checkpoint, not from a quantized one"
            )
        return Tensor(name, path, _DTYPES[entry["dtype"]], tuple(entry["shape"]), base + entry["data_offsets"][0])


def _float32(data: npt.NDArray[Any]) -> Array:
    if data.dtype == ml_dtypes.bfloat16:
        # bfloat16 is the upper half of float32; a shift is several times faster than a generic cast.
        wide = data.view(np.uint16).astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return data.astype(np.float32, copy=False)
