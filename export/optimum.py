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
from onnx import TensorProto, helper, numpy_helper

from guardpass.errors import CheckpointError, MissingDependency
from guardpass.integrity import sha256
from guardpass.tree import ancestors

from .checkpoint import Array, Checkpoint
from .decoder import inputs, outputs

Probe = tuple[dict[str, npt.NDArray[Any]], Array]  # feeds, and the expected scores [T, V'] of every token

_TOLERANCE = 1e-3  # of the largest score
_SHARED, _ENDS = 24, (6, 17)  # tokens of the probes: a shared span, and what follows it in either branch
_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Tanh", "Cast", "Identity"}
_INPUTS = {"input_ids", "attention_mask", "position_ids"}
_INLINE = 1024  # bytes; ONNX Runtime wants small tensors (shapes, scalars) inside the model


@dataclass(frozen=True)
class ViaOptimum:
    """What was written. Without `tree_mask` the graph takes the mask and ignores it, and maybe the positions too: then
    it fits only passes that are one chain with positions from 0."""

    digest: str  # SHA-256 of model.onnx.data
    size: int  # bytes of model.onnx.data
    tree_mask: bool
    architecture: str
    context: int
    vocab: int


def write_via_optimum(checkpoint: Path, directory: Path, rows: Sequence[int]) -> ViaOptimum:
    """Write model.onnx and model.onnx.data: the fp32 graph (no other precision on this route, and nothing baked) of
    any causal language model that optimum knows, with the inputs and outputs of our own graphs, scoring the
    vocabulary's `rows`.

    Nothing is downloaded, no code of the checkpoint runs, and the result is held against transformers' own scores.
    Raises CheckpointError where it differs or cannot be cut, MissingDependency where optimum-onnx is not installed.
    """
    Checkpoint(checkpoint)  # its checks come first: plain safetensors only, so that nothing is unpickled
    with TemporaryDirectory(prefix="optimum-", dir=directory) as scratch:
        model = _export(checkpoint, Path(scratch), rows)
        worst = np.inf
        for tree in (True, False):
            uncut = _Uncut(onnx.load(Path(scratch) / "model.onnx"))
            masks = uncut.causal_masks(model.layers) if tree else []
            if tree and not masks:
                continue
            uncut.cut(rows, model.vocab, masks)
            data = _save(uncut.model, directory)
            del uncut  # its weights, before the check loads them again
            worst = _difference(directory / "model.onnx", [*model.chains, model.tree] if tree else model.chains)
            if worst <= _TOLERANCE:
                size = data.stat().st_size
                return ViaOptimum(sha256(data), size, tree, model.architecture, model.context, model.vocab)
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


def _export(checkpoint: Path, scratch: Path, rows: Sequence[int]) -> _Model:
    """optimum's graph as scratch/model.onnx, and transformers' own scores."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # optimum looks for more files than the model's
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
            checkpoint, dtype=torch.float32, output_loading_info=True, **safely
        )
        model.eval()
        ids = np.random.default_rng(0).integers(0, model.config.vocab_size, _SHARED + sum(_ENDS)).tolist()
        first, second = ids[: _SHARED + _ENDS[0]], ids[:_SHARED] + ids[_SHARED + _ENDS[0] :]
        with torch.no_grad():
            scores = [model(torch.tensor([each])).logits[0].numpy() for each in (first, second)]
    # transformers fills in random weights for missing ones, and says so in a warning.
    wrong = [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in loaded[kind]]
    wrong = sorted(str(name) for name in wrong if not str(name).endswith("rotary_emb.inv_freq"))
    if wrong:
        raise CheckpointError(
            f"config.json and the tensors disagree in {len(wrong)} places, among them {', '.join(wrong[:3])}; "
            "download the checkpoint again"
        )
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
    before, after = (np.ascontiguousarray(each[:, list(rows)]) for each in scores)
    chain, end = range(-1, len(ids)), len(first)
    branch = [*chain[:end], _SHARED - 1, *range(end, len(ids) - 1)]
    tree = _probe(ids, branch, np.concatenate([before, after[_SHARED:]]))
    chains = [_probe(each, chain[: len(each)], out) for each, out in ((first, before), (second, after))]
    return _Model(type(model).__name__, context, vocab, layers, chains, tree)


@contextmanager
def _foreign(failure: str) -> Iterator[None]:
    """torch, transformers, optimum and ONNX Runtime raise whatever they like: none of it is ours to foresee."""
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


class _Uncut:
    """optimum's graph, to be cut in place."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self._graph = model, model.graph
        self._producers = {name: node for node in self._graph.node for name in node.output}
        self._constants = {each.name: each for each in self._graph.initializer}
        for node in self._graph.node:
            if node.op_type == "Constant" and node.attribute[0].HasField("t"):
                self._constants[node.output[0]] = node.attribute[0].t
        self._given = {each.name for each in self._graph.input}
        if not {"input_ids", "attention_mask"} <= self._given <= _INPUTS:
            raise CheckpointError(
                f"optimum's graph has inputs {', '.join(sorted(self._given))}, expected input_ids and attention_mask, "
                "and maybe position_ids; this architecture cannot be exported via optimum"
            )

    def causal_masks(self, layers: int) -> list[tuple[onnx.NodeProto, int]]:
        """The inputs of Add that bring every attention its mask; none where one is not provably the plain causal
        mask, or where no position can be given."""
        found = []
        for node in self._graph.node:
            add = self._producers.get(node.input[0]) if node.op_type == "Softmax" else None
            if add is not None and add.op_type == "Add":
                sides = [i for i in (0, 1) if self._matmul(add.input[1 - i])[0] and self._causal(add.input[i])]
                found += [(add, i) for i in sides]
        return found if len(found) == layers and "position_ids" in self._given else []

    def _causal(self, tensor: str) -> bool:
        """Whether a tensor is made of lengths and attention_mask alone, with no number that could be a window's or a
        chunk's size: a size below the probes' length would show in their scores."""
        waiting, seen = [tensor], {tensor}
        while waiting:
            name = waiting.pop()
            node = self._producers.get(name)
            values = [self._constants[name]] if name in self._constants else []
            if (node is None or node.op_type == "Constant") and not values and name != "attention_mask":
                return False
            if node is not None and node.op_type not in ("Constant", "Shape"):
                values = [attribute.t for attribute in node.attribute if attribute.HasField("t")]
                waiting += [each for each in node.input if each and each not in seen]
                seen.update(node.input)
            for value in values:
                size = np.abs(numpy_helper.to_array(value).astype(np.float64))
                if not np.all((size < _SHARED) | (size > 1e9)):  # the end of a slice, or -infinity
                    return False
        return True

    def _matmul(self, tensor: str) -> tuple[onnx.NodeProto | None, list[onnx.NodeProto]]:
        """The MatMul that a tensor comes from by elementwise steps with constants (scale, softcap, bias); the steps."""
        steps: list[onnx.NodeProto] = []
        node = self._producers.get(tensor)
        while node is not None and node.op_type in _ELEMENTWISE:
            steps.append(node)
            moving = [each for each in node.input if each not in self._constants]
            node = self._producers.get(moving[0]) if len(moving) == 1 else None
        return (node if node is not None and node.op_type == "MatMul" else None), steps

    def cut(self, rows: Sequence[int], vocab: int, masks: list[tuple[onnx.NodeProto, int]]) -> None:
        """Score `rows` at the slots alone, see what `mask` says in place of `masks`, and drop all else."""
        small: dict[str, npt.NDArray[Any]] = {"open": np.zeros(1, np.float32), "first axis": np.zeros(1, np.int64)}
        ones = helper.make_tensor("ones", TensorProto.INT64, [1], [1])
        small["closed"] = np.full(1, np.finfo(np.float32).min)
        self._graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in small.items())
        head, steps = self._matmul("logits")
        if head is None:
            raise CheckpointError(
                "optimum's graph does not end in a MatMul with the vocabulary's weights and elementwise steps; this "
                "architecture cannot be exported via optimum"
            )
        before = [
            helper.make_node("Identity", ["tokens"], ["input_ids"]),
            helper.make_node("Identity", ["positions"], ["position_ids"]),
            helper.make_node("Shape", ["tokens"], ["tokens.shape"]),
            helper.make_node("ConstantOfShape", ["tokens.shape"], ["attention_mask"], value=ones),
            helper.make_node("Where", ["mask", "open", "closed"], ["mask.bias"]),
            helper.make_node("Squeeze", ["slots", "first axis"], ["slots.index"]),
        ]
        gather = helper.make_node("Gather", [head.input[0], "slots.index"], ["slots.hidden"], axis=1)
        for add, side in masks:
            add.input[side] = "mask.bias"
        head.input[0] = "slots.hidden"
        head.input[1] = self._verdicts(head.input[1], rows, vocab)
        for step in steps:  # a bias is cut as well; a scale is one number
            for i, name in enumerate(step.input):
                if name in self._constants and self._constants[name].dims[-1:] == [vocab]:
                    step.input[i] = self._verdicts(name, rows, vocab)
        nodes = [*before]
        for node in self._graph.node:
            nodes += [gather, node] if node is head else [node]
        self._keep([*nodes, helper.make_node("Identity", ["logits"], ["scores"])], len(rows))

    def _verdicts(self, name: str, rows: Sequence[int], vocab: int) -> str:
        """A constant of the head, cut to the rows."""
        node = self._producers.get(name)
        turned = node is not None and node.op_type == "Transpose"
        constant = self._constants.get(node.input[0] if node is not None and turned else name)
        value = np.empty(0) if constant is None else numpy_helper.to_array(constant)
        value = value.T if turned else value
        if value.shape[-1] != vocab:
            raise CheckpointError(
                f"the head of optimum's graph has weights of shape {list(value.shape)}, expected a vocabulary of "
                f"{vocab} last; this architecture cannot be exported via optimum"
            )
        cut = np.ascontiguousarray(value[..., list(rows)])
        self._graph.initializer.append(numpy_helper.from_array(cut, f"verdict {name}"))
        return f"verdict {name}"

    def _keep(self, nodes: list[onnx.NodeProto], labels: int) -> None:
        """The nodes and weights that the scores need, and our inputs, of which some may be without use."""
        needed, kept = {"scores"}, []
        for node in reversed(nodes):
            if needed.intersection(node.output):
                kept.append(node)
                needed |= _reads(node)
        cut = helper.make_graph(kept[::-1], "guard", inputs(0), outputs(labels))
        self._graph.ClearField("value_info")
        for field in ("node", "input", "output"):
            self._graph.ClearField(field)
            getattr(self._graph, field).extend(getattr(cut, field))
        for i in reversed(range(len(self._graph.initializer))):  # in place: a copy would hold all weights twice
            if self._graph.initializer[i].name not in needed:
                del self._graph.initializer[i]


def _reads(node: onnx.NodeProto) -> set[str]:
    """Names a node reads; those of its branches included."""
    inner = [each for attribute in node.attribute for each in attribute.g.node]
    return set(node.input).union(*map(_reads, inner))


def _save(model: onnx.ModelProto, directory: Path) -> Path:
    """Write model.onnx and its weight file; returns the latter's path."""
    data = directory / "model.onnx.data"
    data.unlink(missing_ok=True)  # onnx would append to it
    onnx.save_model(
        model, directory / "model.onnx", save_as_external_data=True, location=data.name, size_threshold=_INLINE
    )
    return data


def _difference(model: Path, probes: list[Probe]) -> float:
    """The largest difference from the expected scores, as a part of the largest score (or of 1)."""
    import onnxruntime

    with _foreign("ONNX Runtime cannot run the graph that optimum made"):
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        pairs = [(session.run(None, feeds)[0][0], expected) for feeds, expected in probes]
    parts = [np.abs(found - expected).max() / max(1.0, np.abs(expected).max()) for found, expected in pairs]
    return float(np.max(parts))  # NaN where one is
