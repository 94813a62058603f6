"""Causal language models outside our own table: optimum exports them, and these passes cut the graph to a verdict."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from guardpass.errors import CheckpointError, MissingDependency
from guardpass.format.manifest import File
from guardpass.format.tree import ancestors

from ..checkpoint.files import Array, Checkpoint
from ..checkpoint.tensor_names import ROTARY, check_rotary
from ..guard_dir.file_entry import file_entry
from .cut import SHORTEST, Uncut, save

Probe = tuple[dict[str, npt.NDArray[Any]], Array]  # feeds, and the expected scores [T, V'] of every token

_TOLERANCE = 1e-3  # of the largest score
_SHARED, _ENDS = SHORTEST, (6, 17)  # tokens of the probes: a shared span, and what follows it in either branch


@dataclass(frozen=True)
class OptimumModel:
    """The files of a model, by name, and the model's sizes."""

    files: dict[str, File]
    architecture: str
    context: int  # positions the guard is good for
    vocab: int  # token ids are below this
    # Without it the graph ignores the mask, and maybe the positions: it fits passes that are one chain from 0 on.
    tree_mask: bool = True


def write_via_optimum(checkpoint: Path, directory: Path, rows: Sequence[int]) -> OptimumModel:
    """Write model.onnx and model.onnx.data: the fp32 graph (no other precision on this route, and nothing baked) of
    any causal language model that optimum knows, with the inputs and outputs of our own graphs, scoring the
    vocabulary's `rows`.

    Nothing is downloaded, no code of the checkpoint runs, and the scores are compared with transformers'.
    Raises CheckpointError where it differs or cannot be cut, MissingDependency where optimum-onnx is not installed.
    """
    source = Checkpoint(checkpoint)  # its checks come first: plain safetensors only, so that nothing is unpickled
    with TemporaryDirectory(prefix="optimum-", dir=directory) as scratch:
        with _offline():
            model = _export(source, Path(scratch), rows)
        worst = np.inf
        for tree in (True, False):
            uncut = Uncut(onnx.load(Path(scratch) / "model.onnx"))
            masks = uncut.causal_masks(model.layers) if tree else []
            if tree and not masks:
                continue
            uncut.cut(rows, model.vocab, masks)
            data = save(uncut.model, directory)
            del uncut  # its weights, before the check loads them again
            worst = _difference(directory / "model.onnx", [*model.chains, model.tree] if tree else model.chains)
            if worst <= _TOLERANCE:
                files = {path.name: file_entry(path) for path in (directory / "model.onnx", data)}
                return OptimumModel(files, model.architecture, model.context, model.vocab, tree_mask=tree)
    raise CheckpointError(
        f"scores of optimum's graph of {model.architecture} are {worst:.2g} of the largest score from those of "
        f"transformers, expected at most {_TOLERANCE}; this architecture cannot be exported via optimum"
    )


@dataclass(frozen=True)
class _Model:
    """What the graph must agree with."""

    architecture: str
    context: int
    vocab: int
    layers: int
    chains: list[Probe]  # two token sequences with the same beginning
    tree: Probe  # the same two as branches of one pass


def _probe(tokens: list[int], parents: Sequence[int], scores: Array) -> Probe:
    mask = ancestors(tuple(parents))
    feeds = {"tokens": np.array([tokens], np.int64), "positions": mask.sum(axis=1)[None] - 1}
    return feeds | {"mask": mask[None, None], "slots": np.arange(len(tokens))[None]}, scores


def _export(source: Checkpoint, scratch: Path, rows: Sequence[int]) -> _Model:
    """optimum's graph as scratch/model.onnx, and transformers' own scores."""
    try:
        import torch
        from optimum.exporters.onnx import onnx_export_from_model
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        if find_spec("onnxruntime") is None:
            raise ImportError("No module named 'onnxruntime'")
    except ImportError as error:
        raise MissingDependency(
            f"exporting via optimum needs optimum-onnx ({error}); run `pip install guardpass[optimum]` in an "
            "environment of its own, as optimum-onnx needs transformers below 4.58"
        ) from None
    logging.set_verbosity_error()
    safely = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
    with _foreign("transformers cannot run this checkpoint"):
        model, loaded = AutoModelForCausalLM.from_pretrained(
            source.directory, dtype=torch.float32, output_loading_info=True, **safely
        )
        model.eval()
        ids = np.random.default_rng(0).integers(0, model.config.vocab_size, _SHARED + sum(_ENDS)).tolist()
        first, second = ids[: _SHARED + _ENDS[0]], ids[:_SHARED] + ids[_SHARED + _ENDS[0] :]
        with torch.no_grad():
            scores = [model(torch.tensor([tokens])).logits[0].numpy() for tokens in (first, second)]
    # transformers fills in random weights for missing ones, and says so in a warning.
    wrong = [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in loaded[kind]]
    wrong = sorted(str(name) for name in wrong if not str(name).endswith("rotary_emb.inv_freq"))
    if wrong:
        raise CheckpointError(
            f"config.json and the tensors disagree in {len(wrong)} places, among them {', '.join(wrong[:3])}; "
            "download the checkpoint again"
        )
    check_loaded(source, model)
    vocab = scores[0].shape[1]
    if not all(0 <= row < vocab for row in rows):
        raise CheckpointError(f"verdict ids go up to {max(rows)}, and the model has a vocabulary of {vocab}")
    context, layers = _sizes(model.config)
    model.config.use_cache = False  # else keys and values become outputs
    with _foreign("optimum cannot export this checkpoint"), warnings.catch_warnings(action="ignore"):
        # The warnings are a page on every branch the tracer takes; the probes tell whether it took the right ones.
        onnx_export_from_model(
            model, scratch, task="text-generation", do_validation=False, no_post_process=True, device="cpu"
        )
    before, after = (np.ascontiguousarray(logits[:, list(rows)]) for logits in scores)
    chain, end = range(-1, len(ids)), len(first)
    branch = [*chain[:end], _SHARED - 1, *range(end, len(ids) - 1)]
    tree = _probe(ids, branch, np.concatenate([before, after[_SHARED:]]))
    chains = [_probe(tokens, chain[: len(tokens)], out) for tokens, out in ((first, before), (second, after))]
    return _Model(type(model).__name__, context, vocab, layers, chains, tree)


def check_loaded(source: Checkpoint, model: Any) -> None:
    """Raises CheckpointError for a stored tensor that is another one in the model: transformers 4 drops a head where
    config.json ties it to the embedding, and every version drops rotary tables."""
    loaded = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    tables = [buffer for name, buffer in loaded.items() if name.endswith(ROTARY)]
    for name, tensor in source.tensors.items():
        if name.endswith(ROTARY):
            for table in tables:
                check_rotary(tensor, table.numpy())
        elif name in loaded and tensor.shape and tuple(loaded[name].shape) == tensor.shape:
            values = loaded[name].detach().numpy()
            chunks = ((tensor.rows(start, count), values[start : start + count]) for start, count in tensor.chunks())
            if not all(np.array_equal(stored, found) for stored, found in chunks):
                raise CheckpointError(
                    f"transformers puts other values in the place of {name}, which the checkpoint has; if config.json "
                    "ties it to another tensor (tie_word_embeddings), and should not, correct that"
                )


@contextmanager
def _offline() -> Iterator[None]:
    """optimum looks for more files than the model's, on the hub too."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before


@contextmanager
def _foreign(failure: str) -> Iterator[None]:
    """torch, transformers, optimum and ONNX Runtime raise exceptions of any type; all become CheckpointError."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(
            f"{failure} ({type(error).__name__}: {error!s:.300}); export a checkpoint of an architecture that "
            "guardpass or optimum-onnx lists"
        ) from error


def _sizes(config: Any) -> tuple[int, int]:
    """Context and layers."""
    context, layers = (getattr(config, key, None) for key in ("max_position_embeddings", "num_hidden_layers"))
    rope = getattr(config, "rope_scaling", None) or {}
    if rope.get("rope_type", rope.get("type")) == "longrope":
        # Beyond it transformers turns to other frequencies; a traced graph cannot.
        context = getattr(config, "original_max_position_embeddings", context)
    if not isinstance(context, int) or not isinstance(layers, int):
        raise CheckpointError(
            f"config.json has max_position_embeddings {context!r} and num_hidden_layers {layers!r}, expected two counts"
        )
    return context, layers


def _difference(model: Path, probes: list[Probe]) -> float:
    """The largest difference from the expected scores, as a part of the largest score (or of 1)."""
    import onnxruntime

    with _foreign("ONNX Runtime cannot run the graph that optimum made"):
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        pairs = [(session.run(None, feeds)[0][0], expected) for feeds, expected in probes]
    parts = [np.abs(actual - expected).max() / max(1.0, np.abs(expected).max()) for actual, expected in pairs]
    return float(np.max(parts))  # NaN where one is
