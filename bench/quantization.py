"""How far each quantization moves a real model: `python -m guardpass.bench.quantization CHECKPOINT [--texts N]`.

KL of the full next-token distribution against fp32, and the change of the Yes/No margin, on a policy prompt over
Korean and English texts, the prompt's opening baked as in a guard, or not. CHECKPOINT: real weights, such as
bench/smollm2.py makes.
"""

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from guardpass.export.checkpoint import Checkpoint
from guardpass.export.config import read_architecture
from guardpass.export.decoder import inputs, outputs, write_decoder
from guardpass.export.graph import Graph
from guardpass.export.ops import Ops
from guardpass.export.quantize import RECIPES, Recipe, int4
from guardpass.export.tokenizer import CheckpointTokenizer
from guardpass.manifest import Prefix

from .demo.data import blind_set

_PROMPT = (
    "<|im_start|>user\nDoes the message below ask for something harmful? Answer Yes or No.\n\nMessage: {text}\n\n"
    "Answer:<|im_end|>\n<|im_start|>assistant\n"
)
VARIANTS: dict[str, Recipe] = {
    "int8": RECIPES["int8"],
    **{f"int4 block {size}": Recipe("int4", partial(int4, block=size)) for size in (16, 32, 64, 128)},
    "int4 block 32, no search": Recipe("int4", partial(int4, search=(1.0,))),
    "int4 block 32, level 0": Recipe("int4", partial(int4, level=0)),
}


def logits(
    checkpoint: Checkpoint, recipe: Recipe, prompts: Sequence[Sequence[int]], baked: int
) -> npt.NDArray[np.float64]:
    """[prompts, vocabulary] at the last position of each prompt, of which the first `baked` tokens are the same."""
    shape = read_architecture(checkpoint)
    prefix = Prefix(tuple(prompts[0][:baked]), tuple(range(-1, baked - 1)))
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        graph = Graph(model.with_suffix(".onnx.data"))
        write_decoder(Ops(checkpoint, shape, graph, recipe, prefix, lambda _: None), shape, range(shape.vocab))
        graph.finish(model, inputs(baked), outputs(shape.vocab))
        session = onnxruntime.InferenceSession(model)
    rows = []
    for prompt in prompts:
        run = len(prompt) - baked
        feeds = {
            "tokens": np.array([prompt[baked:]]),
            "positions": np.arange(baked, len(prompt))[None],
            "mask": np.tri(run, len(prompt), baked, dtype=np.bool_)[None, None],
            "slots": np.array([[run - 1]]),
        }
        rows.append(session.run(None, feeds)[0][0, 0].astype(np.float64))
    return np.stack(rows)


def log_softmax(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Along the last axis."""
    shifted: npt.NDArray[np.float64] = x - x.max(axis=-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def main() -> None:
    """Print a markdown table."""
    parser = argparse.ArgumentParser(prog="python -m guardpass.bench.quantization")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--texts", type=int, default=60)
    options = parser.parse_args()

    checkpoint = Checkpoint(options.checkpoint)
    tokenizer = CheckpointTokenizer(checkpoint)
    examples = blind_set()
    texts = [example.user for example in examples[:: max(1, len(examples) // options.texts)]]
    prompts = [tokenizer.split(_PROMPT.format(text=text)) for text in texts]
    answers = [tokenizer.content_ids(answer)[0] for answer in ("Yes", "No")]
    opening = len(tokenizer.split(_PROMPT.partition("{text}")[0])) - 1  # the last may merge with the text
    reference = logits(checkpoint, RECIPES["fp32"], prompts, opening)
    expected = log_softmax(reference)
    print(f"{len(texts)} texts\n\n| quantization | KL mean | KL max | largest change of the Yes/No margin |")
    print("|---|---|---|---|")
    runs = [(name, recipe, opening) for name, recipe in VARIANTS.items()]
    for name, recipe, baked in [*runs, ("int8, nothing baked", RECIPES["int8"], 0)]:
        found = logits(checkpoint, recipe, prompts, baked)
        kl = (np.exp(expected) * (expected - log_softmax(found))).sum(axis=-1)
        margins = [x[:, answers[0]] - x[:, answers[1]] for x in (found, reference)]
        print(f"| {name} | {kl.mean():.4f} | {kl.max():.4f} | {np.abs(margins[0] - margins[1]).max():.3f} |")


if __name__ == "__main__":
    main()
