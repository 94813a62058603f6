"""A checkpoint as an OpenVINO graph that scores the last token, with nothing kept between prompts.

`python openvino.py CHECKPOINT OUT WEIGHTS TEXTS`. WEIGHTS: int8_sym, int8_asym, int4_sym (all with a scale per output
channel), int4_g128, or ptq (W8A8 with static activation scales, from TEXTS, lines of JSON with "text").
"""

import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nncf
import openvino
import torch
from openvino.frontend.pytorch.patch_model import __make_16bit_traceable as make_traceable
from transformers import PreTrainedTokenizerFast

_SAMPLES, _LONGEST = 24, 256
_MODES = {
    "int8_sym": {"mode": nncf.CompressWeightsMode.INT8_SYM},
    "int8_asym": {"mode": nncf.CompressWeightsMode.INT8_ASYM},
    "int4_sym": {"mode": nncf.CompressWeightsMode.INT4_SYM, "group_size": -1},
    "int4_g128": {"mode": nncf.CompressWeightsMode.INT4_SYM, "group_size": 128},
}


class LastToken(torch.nn.Module):
    """Ids [1, T] to logits [1, V]. The mask is made here: transformers makes it in a way that a trace cannot follow."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(ids.shape[1])
        distance = (positions[:, None] - positions)[None, None]
        mask: Any = _added(distance >= 0)
        if self.model.config.model_type == "gemma2":
            near = _added((distance >= 0) & (distance < self.model.config.sliding_window))
            mask = {"full_attention": mask, "sliding_attention": near}
        found = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions[None], use_cache=False, logits_to_keep=1
        )
        return found.logits[:, -1]  # type: ignore[no-any-return]


def _added(seen: torch.Tensor) -> torch.Tensor:
    """A mask of numbers: attention that caps its scores, as Gemma 2's, adds it."""
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)


def main() -> None:
    """Write OUT/model.xml and model.bin."""
    checkpoint, out, weights, texts = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    # By its path, as guardpass is not installed here.
    load = runpy.run_path(str(Path(__file__).parents[2] / "reference.py"))["load_reference"]
    reference = load(checkpoint, torch.bfloat16)
    make_traceable(reference)
    with torch.no_grad():
        model = openvino.convert_model(
            LastToken(reference), example_input=torch.arange(16)[None], input=openvino.PartialShape([1, -1])
        )
    del reference
    if weights == "ptq":
        samples = list(_samples(checkpoint, texts))
        off = nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
        model = nncf.quantize(
            model,
            nncf.Dataset(samples),
            subset_size=len(samples),
            model_type=nncf.ModelType.TRANSFORMER,
            fast_bias_correction=True,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                disable_bias_correction=True, smooth_quant_alphas=off
            ),
        )
    else:
        model = nncf.compress_weights(model, **_MODES[weights])
    openvino.save_model(model, out / "model.xml", compress_to_fp16=True)


def _samples(checkpoint: Path, texts: Path) -> Iterator[Any]:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(checkpoint / "tokenizer.json"))
    for line in texts.read_text(encoding="utf-8").splitlines()[:_SAMPLES]:
        yield tokenizer(json.loads(line)["text"], return_tensors="np")["input_ids"][:, :_LONGEST]


if __name__ == "__main__":
    main()
