"""Draw latency.svg from the latest table of docs/benchmarks.md: `python docs/images/latency.py`.

The picture has no numbers of its own, so it cannot differ from the page; a test draws it again and compares.
"""

from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parent / "benchmarks.md"
PICTURE = HERE / "latency.svg"
REFERENCE = "guardpass int8, engine `native`"  # what all others are divided by

WIDTH, HEIGHT = 820, 400
LEFT, RIGHT, TOP, BOTTOM = 60, 560, 62, 344  # of the axes
LABEL_GAP = 19.0  # between the names of two lines

# Okabe and Ito's palette (2008), for a light and for a dark page; the first is guardpass's alone.
COLORS = (
    ("#d55e00", "#ff8a3d"), ("#e69f00", "#f0b93a"), ("#0072b2", "#4db2ec"), ("#009e73", "#35c79d"),
    ("#cc79a7", "#e39cc4"), ("#666666", "#a8a8a8"), ("#8a6d3b", "#c9a566"),
)  # fmt: skip


def read_table(markdown: str) -> tuple[list[int], dict[str, list[float]]]:
    """Lengths, and each contender's times beside the reference's, of the first table with a row of the reference."""
    tables: list[list[list[str]]] = [[]]
    for line in markdown.splitlines():
        if line.startswith("|"):
            tables[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif tables[-1]:
            tables.append([])
    table = next(rows for rows in tables if any(row[0].startswith(REFERENCE) for row in rows))
    lengths = [int(cell) for cell in table[0][1:]]
    others = [row for row in table[2:] if not row[0].startswith((REFERENCE, "its"))]
    times = {name: [float(cell) for cell in cells] for name, *cells in others}
    return lengths, {REFERENCE: [1.0] * len(lengths)} | times


def spread(places: list[float]) -> list[float]:
    """The places moved apart, in their order, until names do not overlap."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = list(places)
    for below, above in pairwise(order):
        moved[above] = max(moved[above], moved[below] + LABEL_GAP)
    over = max(0.0, moved[order[-1]] - BOTTOM)
    moved = [place - over for place in moved]
    for above, below in pairwise(order[::-1]):
        moved[below] = min(moved[below], moved[above] - LABEL_GAP)
    return moved


def draw(markdown: str) -> str:
    """The picture."""
    lengths, times = read_table(markdown)
    top = int(max(max(row) for row in times.values())) + 1

    def x(index: int) -> float:
        return LEFT + 14 + index * (RIGHT - LEFT - 28) / (len(lengths) - 1)

    def y(value: float) -> float:
        return BOTTOM - value / top * (BOTTOM - TOP)

    light, dark = (
        "".join(f".c{index}{{stroke:{pair[theme]};fill:{pair[theme]}}}" for index, pair in enumerate(COLORS))
        for theme in (0, 1)
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="13">',
        "<title>Time of a verdict beside guardpass's engine native, by tokens of content</title>",
        "<style>",
        f".page{{fill:#fff}}.ink{{fill:#222}}.grid{{stroke:#ddd}}{light}",
        "@media (prefers-color-scheme:dark){",
        f".page{{fill:#0d1117}}.ink{{fill:#e6edf3}}.grid{{stroke:#30363d}}{dark}",
        "}",
        "polyline{fill:none!important;stroke-width:1.8}.c0{stroke-width:3.2}text{stroke:none!important}",
        "</style>",
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
        f'<text class="ink" x="{LEFT}" y="28" font-size="15" font-weight="bold">Time of a verdict, '
        "in multiples of guardpass's engine native (lower is faster)</text>",
        f'<text class="ink" x="{LEFT}" y="47">Llama Guard 3 1B, twin with random weights, '
        "2 cores of an Intel Xeon with AMX, medians of 5</text>",
    ]
    for value in range(top + 1):
        parts.append(f'<path class="grid" d="M{LEFT} {y(value):.1f}H{RIGHT}"/>')
        parts.append(f'<text class="ink" x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value}</text>')
    for index, length in enumerate(lengths):
        parts.append(f'<text class="ink" x="{x(index):.1f}" y="{BOTTOM + 20}" text-anchor="middle">{length}</text>')
    parts.append(
        f'<text class="ink" x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 42}" text-anchor="middle">tokens of content</text>'
    )
    names = spread([y(row[-1]) for row in times.values()])
    for index, (name, row) in enumerate(times.items()):
        points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in enumerate(row))
        parts.append(f'<polyline class="c{index}" points="{points}"/>')
        parts += [f'<circle class="c{index}" cx="{x(at):.1f}" cy="{y(v):.1f}" r="3"/>' for at, v in enumerate(row)]
        bold = ' font-weight="bold"' if index == 0 else ""
        label = ", ".join(name.partition(" (")[0].replace("`", "").split(", ")[:2])
        parts.append(f'<text class="c{index}" x="{RIGHT + 10}" y="{names[index] + 4:.1f}"{bold}>{label}</text>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
