"""OpenVINO: a stateless graph that scores the last token, made by converters/openvino.py.

options: path (a folder with model.xml), threads, group (tokens' features that share a scale of dynamic quantization;
0: none).
"""

from pathlib import Path
from typing import Any

import numpy as np
import openvino

PACKAGES = ("openvino",)


def load(options: dict[str, Any]) -> Any:
    settings = {
        "INFERENCE_NUM_THREADS": options["threads"],
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": options["group"],
    }
    model = openvino.Core().compile_model(str(Path(options["path"]) / "model.xml"), "CPU", settings)
    request = model.create_infer_request()

    def one(question: dict[str, Any]) -> dict[str, Any]:
        scores = request.infer([np.array([question["ids"]], np.int64)], share_inputs=True, share_outputs=True)[0]
        return {"label": int(scores.reshape(-1)[question["labels"]].argmax()), "run": len(question["ids"])}

    return lambda questions: [one(each) for each in questions]
