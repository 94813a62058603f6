"""A checkpoint as GGUF, by our own export, less the guard around it: `python gguf.py CHECKPOINT OUT QUANT`."""

import sys
from pathlib import Path

from guardpass.export.checkpoint.config import read_architecture
from guardpass.export.checkpoint.files import Checkpoint
from guardpass.export.checkpoint.tokenizer import CheckpointTokenizer
from guardpass.export.to_gguf.quantize import check_blocks
from guardpass.export.to_gguf.write import write_gguf


def main() -> None:
    """Write OUT/model.gguf."""
    checkpoint, out, quant = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    source = Checkpoint(checkpoint)
    shape = read_architecture(source)
    check_blocks(quant, shape.shapes())
    write_gguf(source, shape, CheckpointTokenizer(source), checkpoint.name, quant, out)


if __name__ == "__main__":
    main()
