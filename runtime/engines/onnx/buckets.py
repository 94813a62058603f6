"""The table of shapes that passes are padded to on a GPU, and the grouping of passes into shapes.

A captured CUDA graph avoids the cost of kernel launches, but has a fixed shape. A pass that is longer than every shape
is not captured, and runs alone. Lengths are multiples of 8, as fused attention requires.
"""

from collections.abc import Sequence
from dataclasses import dataclass

LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
BATCHES = (1, 2, 4, 8, 16, 32)
# Tokens of one batch. A large GPU is compute-bound from some hundreds of tokens on, so more tokens only add latency.
BUDGET = 4096


@dataclass(frozen=True)
class Shape:
    """The passes of a batch and the tokens of each, padding included."""

    batch: int
    length: int


SHAPES = tuple(Shape(batch, length) for batch in BATCHES for length in LENGTHS if batch * length <= BUDGET)


def length_of(tokens: int) -> int | None:
    """The padded length of a pass; None if it is longer than every captured shape."""
    return next((length for length in LENGTHS if tokens <= length), None)


def packs(tokens: Sequence[int]) -> list[tuple[Shape | None, list[int]]]:
    """Group passes by their token counts: shapes, and the indices of their passes, in order of arrival.

    Shape None: the pass runs alone and unpadded. A shape has less than twice the tokens of its passes, except for
    passes under 9 tokens.
    """
    alike: dict[int | None, list[int]] = {}
    for index, count in enumerate(tokens):
        alike.setdefault(length_of(count), []).append(index)
    groups: list[tuple[Shape | None, list[int]]] = [(None, [index]) for index in alike.pop(None, [])]
    for length, left in alike.items():
        assert length is not None
        while left:
            shape = _shape(length, [tokens[index] for index in left])
            groups.append((shape, left[: shape.batch]))
            left = left[shape.batch :]
    return groups


def _shape(length: int, tokens: list[int]) -> Shape:
    """The next larger batch if it has less than twice the tokens, else the next smaller one."""
    fitting = [batch for batch in BATCHES if batch * length <= BUDGET]
    larger = next((batch for batch in fitting if batch >= len(tokens)), None)
    if larger is not None and (larger == 1 or larger * length < 2 * sum(tokens)):
        return Shape(larger, length)
    return Shape(max(batch for batch in fitting if batch <= len(tokens)), length)
