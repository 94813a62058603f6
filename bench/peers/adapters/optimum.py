"""optimum-onnx: the graph that its command line exports, in ONNX Runtime, as its users load it.

options: path (a folder with model.onnx or model_quantized.onnx), file (its name), threads.
"""

from typing import Any

import onnxruntime
import torch
from optimum.onnxruntime import ORTModelForCausalLM

PACKAGES = ("optimum-onnx", "optimum", "onnxruntime", "transformers", "torch")


def load(options: dict[str, Any]) -> Any:
    torch.set_num_threads(options["threads"])
    session = onnxruntime.SessionOptions()
    session.intra_op_num_threads = options["threads"]
    model = ORTModelForCausalLM.from_pretrained(
        options["path"],
        file_name=options["file"],
        use_cache=False,
        use_io_binding=False,
        session_options=session,
        local_files_only=True,
    )

    def one(question: dict[str, Any]) -> dict[str, Any]:
        ids = torch.tensor([question["ids"]])
        scores = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1]
        return {"label": int(scores[question["labels"]].argmax()), "run": len(question["ids"])}

    return lambda questions: [one(each) for each in questions]
