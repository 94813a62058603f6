"""How a quantization moves the next-token distribution of policy prompts, over the whole vocabulary."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from guardpass.engines.hardware import usable_cores
from guardpass.engines.llamacpp.library import has_tiles
from guardpass.engines.native import library
from guardpass.export.checkpoint.architecture import Architecture
from guardpass.export.checkpoint.config import read_architecture
from guardpass.export.checkpoint.files import Checkpoint
from guardpass.export.checkpoint.tokenizer import CheckpointTokenizer
from guardpass.export.decoder.forward import write_decoder
from guardpass.export.decoder.ops import Ops
from guardpass.export.decoder.recipe import Recipe
from guardpass.export.gate.texts import built_in
from guardpass.export.to_native.packed_writer import Packed
from guardpass.export.to_native.write import write_packed
from guardpass.export.to_onnx.graph import Graph, inputs, outputs
from guardpass.format.codec import encode
from guardpass.format.manifest import Prefix
from guardpass.format.packed import open_tensors
from guardpass.format.packed_config import Config
from guardpass.plan import Pass

_POLICY = "The text must not ask how to steal, break in, cheat or defraud, nor for weapons, drugs or other harm."
# The policy before the text, so that nearly all is baked, and behind it, so that little is.
PROMPTS = (
    f"<|im_start|>user\nPolicy: {_POLICY}\nDoes the message below violate the policy? Answer Yes or No.\n\n"
    "Message: {text}\n\nAnswer:<|im_end|>\n<|im_start|>assistant\n",
    f"<|im_start|>user\nText:\n{{text}}\n\nPolicy: {_POLICY}\nDoes the text violate the policy? Answer Yes or No."
    "<|im_end|>\n<|im_start|>assistant\n",
)
LENGTHS = range(5, 401)  # tokens of a text

Logits = npt.NDArray[np.float64]
Run = Callable[[Sequence[int]], Logits]  # logits [vocabulary] behind a prompt


@dataclass(frozen=True)
class Kind:
    """One prompt on every text."""

    prompts: list[list[int]]
    calibration: list[list[int]]
    baked: int  # tokens that all of them begin with


class Subject:
    """A checkpoint and its prompts."""

    def __init__(self, path: Path, count: int | None = None) -> None:
        self.checkpoint = Checkpoint(path)
        self.shape = read_architecture(self.checkpoint)
        tokenizer = CheckpointTokenizer(self.checkpoint)
        self.answers = [tokenizer.content_ids(answer)[0] for answer in ("Yes", "No")]
        texts = {
            name: [item.text for item in built_in(name).items if len(tokenizer.content_ids(item.text)) in LENGTHS]
            for name in ("gate", "calibration")
        }
        self.texts = len(texts["gate"][:count])
        self.kinds = [
            Kind(
                [tokenizer.split(prompt.format(text=text)) for text in texts["gate"][:count]],
                [tokenizer.split(prompt.format(text=text)) for text in texts["calibration"]],
                len(tokenizer.split(prompt.partition("{text}")[0])) - 1,  # the last may merge with the text
            )
            for prompt in PROMPTS
        ]


@contextmanager
def onnx_run(
    checkpoint: Checkpoint,
    shape: Architecture,
    kind: Kind,
    recipe: Recipe[Graph],
    *,
    baked: int | None = None,
    rows: Sequence[int] | None = None,
) -> Iterator[tuple[Run, int]]:
    """A graph that scores the whole vocabulary, or `rows` of it, and the bytes of its weights."""
    import onnxruntime

    start, scored = kind.baked if baked is None else baked, range(shape.vocab) if rows is None else rows
    prefix = Prefix(tuple(kind.prompts[0][:start]), tuple(range(-1, start - 1)))
    shown = [_pass(prompt, start) for prompt in kind.calibration] if recipe.calibrated else []
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        graph = Graph(model.with_suffix(".onnx.data"))
        ops = Ops(checkpoint, shape, graph, recipe, prefix, lambda _: None, shown)
        write_decoder(ops, shape, scored)
        size = graph.finish(model, inputs(start), outputs(len(scored))).size
        session = onnxruntime.InferenceSession(model)

        def run(prompt: Sequence[int]) -> Logits:
            request = _pass(prompt, start)
            names = ("tokens", "positions", "mask", "slots")
            feeds = {name: getattr(request, name) for name in names}
            logits: Logits = session.run(None, feeds)[0][0, 0].astype(np.float64)
            return logits

        yield run, size


def _pass(prompt: Sequence[int], baked: int) -> Pass:
    run = len(prompt) - baked
    return Pass(
        tokens=np.array([prompt[baked:]]),
        positions=np.arange(baked, len(prompt))[None],
        slots=np.array([[run - 1]]),
        prefix_columns=tuple(range(baked)),
        prefix_len=baked,
        tree_mask=np.zeros((0, 0), np.bool_),
    )


@contextmanager
def gguf_run(path: Path, threads: int) -> Iterator[Run]:
    """llama.cpp as its users run it: with flash attention, and with the prompt's unchanged beginning cached."""
    import llama_cpp

    from ..peers.adapters.llama_cpp import repacking

    with repacking(not has_tiles(llama_cpp)):
        llama = llama_cpp.Llama(
            str(path),
            n_ctx=1024,
            n_batch=512,
            n_threads=threads,
            n_threads_batch=threads,
            flash_attn=True,
            verbose=False,
        )
    last: list[int] = []

    def run(prompt: Sequence[int]) -> Logits:
        cached = 0
        while cached < min(len(last), len(prompt) - 1) and last[cached] == prompt[cached]:
            cached += 1
        llama.n_tokens = cached
        llama.eval(list(prompt[cached:]))
        last[:] = prompt
        row = llama_cpp.llama_get_logits_ith(llama.ctx, -1)
        return np.ctypeslib.as_array(row, (llama.n_vocab(),)).astype(np.float64)

    yield run
    llama.close()


@contextmanager
def native_run(
    checkpoint: Checkpoint, shape: Architecture, kind: Kind, recipe: Recipe[Packed]
) -> Iterator[tuple[Run, int]]:
    """guardpass-kernels scoring the whole vocabulary, and the bytes of its file."""
    prefix = Prefix(tuple(kind.prompts[0][: kind.baked]), tuple(range(-1, kind.baked - 1)))
    shown = [_pass(prompt, kind.baked) for prompt in kind.calibration] if recipe.calibrated else []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.packed"
        write_packed(checkpoint, shape, prefix, range(shape.vocab), recipe, path, shown)
        header, tensors = open_tensors(path)
        model = library().Model(encode(Config.of(header.metadata)), tensors, usable_cores())

        def run(prompt: Sequence[int]) -> Logits:
            request = _pass(prompt, kind.baked)
            chain = np.array(request.prefix_columns, np.int32)
            logits: Logits = model.run(
                request.tokens[0], request.positions[0], request.slots[0], chain, request.tree_mask
            )[0]
            return logits.astype(np.float64)

        yield run, path.stat().st_size


@dataclass(frozen=True)
class Moved:
    """What a quantization moved, against fp32. Margins are logits of Yes less No; kl is of all tokens, in nats."""

    kl: float
    kl_worst: float
    agreement: float
    worst_flip: float  # the reference's margin
    margin: float  # change, mean


def moved(logits: Logits, reference: Logits, answers: Sequence[int]) -> Moved:
    """Both [prompts, vocabulary]."""
    expected, logs = log_softmax(reference), log_softmax(logits)
    kl = (np.exp(expected) * (expected - logs)).sum(axis=-1)
    before, after = (x[:, answers[0]] - x[:, answers[1]] for x in (reference, logits))
    flips = (before > 0) != (after > 0)
    return Moved(
        kl=float(kl.mean()),
        kl_worst=float(kl.max()),
        agreement=float(1 - flips.mean()),
        worst_flip=float(np.abs(before[flips]).max(initial=0)),
        margin=float(np.abs(after - before).mean()),
    )


def log_softmax(x: Logits) -> Logits:
    """Along the last axis."""
    shifted: Logits = x - x.max(axis=-1, keepdims=True)
    result: Logits = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
