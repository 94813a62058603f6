"""A checkpoint as onnxruntime-genai's builder makes it: `python genai.py CHECKPOINT OUT PRECISION NAME=VALUE...`."""

import runpy
import sys
from pathlib import Path


def main() -> None:
    """Run the builder on the command line that it wants."""
    checkpoint, out, precision, *extra = sys.argv[1:]
    runpy.run_path(str(Path(__file__).parents[1] / "heads.py"))["allow"]()
    sys.argv[1:] = ["-i", checkpoint, "-o", out, "-p", precision, "-e", "cpu", "-c", f"{out}/cache"]
    sys.argv += ["--extra_options", *extra]
    runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
