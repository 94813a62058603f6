"""Which shapes passes are padded to on a GPU, and which of them go together.

A GPU replays a captured pass without the cost of launching its kernels one by one, but only at the shape that was
captured. So there is a table of shapes; a pass that is longer than all of them is not captured, and runs alone. Lengths
are multiples of 8, as fused attention wants them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
BATCHES = (1, 2, 4, 8, 16, 32)
# Tokens of one pass. A big GPU is at its arithmetic limit from some hundreds on: more would only make the first wait.
BUDGET = 4096


@dataclass(frozen=True)
class Shape:
    """Passes side by side, and tokens of each, padding included."""

    batch: int
    length: int


SHAPES = tuple(Shape(batch, length) for batch in BATCHES for length in LENGTHS if batch * length <= BUDGET)


def length_of(tokens: int) -> int | None:
    """What so many tokens are padded to; None where that is more than any captured pass has."""
    return next((length for length in LENGTHS if tokens <= length), None)


def packs(tokens: Sequence[int]) -> list[tuple[Shape | None, list[int]]]:
    """Put passes of so many tokens together: each shape, and which passes run in it, in the order they came.

    None is for what runs alone and unpadded. A shape is less than twice what is in it, but for passes under 9 tokens.
    """
    alike: dict[int | None, list[int]] = {}
    for index, each in enumerate(tokens):
        alike.setdefault(length_of(each), []).append(index)
    found: list[tuple[Shape | None, list[int]]] = [(None, [index]) for index in alike.pop(None, [])]
    for length, left in alike.items():
        assert length is not None
        while left:
            shape = _shape(length, [tokens[index] for index in left])
            found.append((shape, left[: shape.batch]))
            left = left[shape.batch :]
    return found


def _shape(length: int, tokens: list[int]) -> Shape:
    """The next larger batch where that is less than twice the work, else the next smaller one."""
    fitting = [batch for batch in BATCHES if batch * length <= BUDGET]
    larger = next((batch for batch in fitting if batch >= len(tokens)), None)
    if larger is not None and (larger == 1 or larger * length < 2 * sum(tokens)):
        return Shape(larger, length)
    return Shape(max(batch for batch in fitting if batch <= len(tokens)), length)
