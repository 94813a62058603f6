"""Labelled files for the tests of calibrate and compare, and a look at the pictures they draw."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from guardpass.bench.demo.data import Example


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def lines_of(examples: Sequence[Example], labelled: bool = True) -> list[dict[str, Any]]:
    """One line for each conversation, with its label as "unsafe" and, where it is unsafe, its category."""
    lines = []
    for number, example in enumerate(examples):
        line: dict[str, Any] = {"id": f"conversation {number}", "text": example.user}
        if example.assistant:
            line["response"] = example.assistant
        if labelled:
            line["unsafe"] = example.label != "<SAFE>"
        if labelled and line["unsafe"]:
            line["category"] = example.label
        lines.append(line)
    return lines


def is_picture(path: Path) -> bool:
    """Whether it is a PNG of some size with something on it."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        colors = image.convert("RGB").getcolors(1 << 24) or []
        return min(image.size) >= 500 and len(colors) > 20
