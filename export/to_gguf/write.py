"""The GGUF route: a checkpoint as model.gguf, quantized by llama.cpp, its tokenizer proved by llama.cpp's."""

import ctypes
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from guardpass.engines.llamacpp.library import library, quiet
from guardpass.errors import CheckpointError
from guardpass.format.engines import ENGINES
from guardpass.plan import Pass

from ..checkpoint.architecture import Architecture
from ..checkpoint.files import Array, Checkpoint
from ..checkpoint.special_tokens import tokenizer_config
from ..checkpoint.template_files import template_text
from ..checkpoint.tokenizer import CheckpointTokenizer
from ..decoder.forward import reference_scores
from ..guard_dir.file_entry import file_entry
from ..guard_dir.job import Job, Written
from ..guard_dir.progress import Progress, no_progress, part, summed
from ..prompt.probes import PROBES
from .model import license_of, write_model
from .quantize import QUANTS, quantize
from .vocab import Splitting, to_gguf

__all__ = ["MODEL", "prove_vocabulary", "vocabulary_ids", "write_gguf"]

MODEL = ENGINES["llamacpp"].model


@dataclass(frozen=True)
class GgufWriter:
    """Writes a guard of engine llamacpp at one of QUANTS. llama.cpp quantizes by itself, without calibration."""

    quant: str
    calibrated: bool = False

    def write(self, job: Job, _calibration: Sequence[Pass], judged: Sequence[Pass]) -> Written:
        """Write model.gguf. Raises CheckpointError, InputError, and MissingDependency without llama-cpp-python."""
        parts = 2 if judged else 1
        progress = part(job.progress, 0, parts)
        path = write_gguf(job.checkpoint, job.arch, job.tokenizer, job.published, self.quant, job.directory, progress)
        scores: list[Array] = []
        if judged:  # llama.cpp has no walk that could compute them on the way
            prompts, progress = job.prompts, part(job.progress, 1, parts)
            scores = reference_scores(job.checkpoint, job.arch, prompts.prefix, prompts.columns, judged, progress)
        return Written({MODEL: file_entry(path)}, scores)


def write_gguf(
    source: Checkpoint,
    arch: Architecture,
    tokenizer: CheckpointTokenizer,
    name: str,
    quant: str,
    directory: Path,
    progress: Progress = no_progress,
) -> Path:
    """Write model.gguf, its vocabulary proved; returns its path. Raises as `GgufWriter.write`."""
    library()
    weights = sum(map(math.prod, arch.shapes().values()))
    quantized = QUANTS[quant] is not None
    advance = summed(2 * weights if quantized else weights, progress)
    vocabulary = to_gguf(tokenizer, tokenizer_config(source), arch.vocab)
    about = {"general.name": name, "tokenizer.chat_template": template_text(source) or "", **license_of(source)}
    about = {key: value for key, value in about.items() if value}
    path, whole = directory / MODEL, directory / "whole.gguf"
    if quantized:
        write_model(source, arch, vocabulary, about, None, whole, advance)
        quantize(whole, path, quant, lambda share: progress(weights + int(share * weights), 2 * weights))
        whole.unlink()
    else:
        write_model(source, arch, vocabulary, about, quant, path, advance)
    prove_vocabulary(path, vocabulary.splitting, tokenizer)
    return path


def prove_vocabulary(path: Path, splitting: Splitting, tokenizer: CheckpointTokenizer) -> None:
    """Compare llama.cpp's ids with ours on every probe. Raises CheckpointError where they differ.

    llama.cpp composes no characters (NFC), so the probes are composed first.
    """
    texts = [f"x{probe}" for probe in PROBES]
    if splitting.normalizer and splitting.normalizer["type"] == "NFC":
        texts = [unicodedata.normalize("NFC", text) for text in texts]
    for text, ids in zip(texts, vocabulary_ids(path, texts), strict=True):
        if ids != tokenizer.content_ids(tokenizer.opening(text)):
            raise CheckpointError(
                f"llama.cpp tokenizes {text!r:.60} otherwise than the checkpoint's tokenizer; export to onnx instead"
            )


def vocabulary_ids(path: Path, texts: Sequence[str]) -> list[list[int]]:
    """Ids that llama.cpp gives texts, control tokens unknown. Raises CheckpointError where it cannot open the file."""
    llama = library()
    with quiet(llama) as complaints:
        options = llama.llama_model_default_params()
        options.vocab_only = True
        model = llama.llama_model_load_from_file(bytes(path), options)
        if not model:
            raise CheckpointError(f"llama.cpp cannot open {path.name}: {' '.join(complaints) or 'no reason'}")
        try:
            return [_ids(llama, llama.llama_model_get_vocab(model), text.encode()) for text in texts]
        finally:
            llama.llama_model_free(model)


def _ids(llama: ModuleType, vocab: object, text: bytes) -> list[int]:
    buffer = (ctypes.c_int32 * (len(text) + 8))()
    count = llama.llama_tokenize(vocab, text, len(text), buffer, len(buffer), False, False)
    return list(buffer[:count])
