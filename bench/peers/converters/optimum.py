"""A checkpoint as optimum's command line exports it: `python optimum.py CHECKPOINT OUT fp32|int8`.

int8: ONNX Runtime's dynamic quantization, with optimum's own settings for AVX512-VNNI.
"""

import sys
from pathlib import Path

from optimum.exporters.onnx import main_export
from optimum.onnxruntime import ORTModelForCausalLM, ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig


def main() -> None:
    """Write OUT/model.onnx, or OUT/model_quantized.onnx alone."""
    checkpoint, out, quant = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    main_export(str(checkpoint), out, task="text-generation", do_validation=False, local_files_only=True)
    if quant == "int8":
        model = ORTModelForCausalLM.from_pretrained(out, use_cache=False, use_io_binding=False, local_files_only=True)
        quantizer = ORTQuantizer.from_pretrained(model)
        config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
        quantizer.quantize(save_dir=out, quantization_config=config, use_external_data_format=True)
        for path in out.glob("model.onnx*"):
            path.unlink()


if __name__ == "__main__":
    main()
