"""What goes together on a GPU, and how it is padded: nothing real sees padding, nothing reads it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from guardpass.engines.onnx.batching import padded
from guardpass.engines.onnx.buckets import BUDGET, LENGTHS, SHAPES, packs
from guardpass.format.tree import ancestors, depths
from guardpass.plan import Pass

_BAKED = 7


@st.composite
def passes(draw: st.DrawFn, longest: int = 40) -> Pass:
    """A span, and a tree whose nodes hang anywhere above them, behind a chain of baked columns."""
    nodes = draw(st.integers(1, 6))
    parents = tuple(draw(st.integers(-1, node - 1)) for node in range(nodes))
    text = draw(st.integers(1, longest - nodes))
    chain = tuple(sorted(draw(st.sets(st.integers(0, _BAKED - 1)))))
    slots = sorted(draw(st.sets(st.integers(0, nodes - 1), min_size=1)))
    positions = np.concatenate([np.arange(text), text + depths(parents)]) + len(chain)
    return Pass(
        tokens=np.array([draw(st.lists(st.integers(1, 99), min_size=text + nodes, max_size=text + nodes))], np.int64),
        positions=positions[None].astype(np.int64),
        slots=np.array([slots], np.int64) + text,
        prefix_columns=chain,
        prefix_len=_BAKED,
        tree_mask=ancestors(parents),
    )


@given(st.lists(passes(), min_size=1, max_size=5), st.integers(0, 3), st.integers(0, 9), st.integers(0, 2))
def test_padding_leaves_a_pass_what_it_is(requests: list[Pass], batch: int, length: int, slots: int) -> None:
    length += max(request.tokens.size for request in requests)
    slots += max(request.slots.size for request in requests)
    feeds = padded(requests, len(requests) + batch, length, slots)
    shapes = {name: array.shape for name, array in feeds.items()}
    rows = len(requests) + batch
    assert shapes == {
        "tokens": (rows, length),
        "positions": (rows, length),
        "slots": (rows, slots),
        "mask": (rows, 1, length, _BAKED + length),
    }
    for row in range(rows):
        request = requests[row] if row < len(requests) else requests[0]
        total, scored = request.tokens.size, request.slots.size
        assert (feeds["tokens"][row, :total] == request.tokens[0]).all()
        assert (feeds["positions"][row, :total] == request.positions[0]).all()
        assert (feeds["slots"][row, :scored] == request.slots[0]).all()
        assert np.isin(feeds["slots"][row, scored:], request.slots).all()  # never a row of padding
        mask = feeds["mask"][row, 0]
        assert (mask[:total, : _BAKED + total] == request.mask[0, 0]).all()
        assert not mask[:total, _BAKED + total :].any()  # no real row sees padding
        assert (mask[total:] == np.eye(length, _BAKED + length, _BAKED, dtype=bool)[total:]).all()
        assert mask.any(axis=1).all()  # the softmax of nothing is no number


@given(st.lists(st.integers(1, 600), max_size=80))
def test_every_pass_is_in_one_pack_that_holds_it(tokens: list[int]) -> None:
    found = packs(tokens)
    assert sorted(index for _, indices in found for index in indices) == list(range(len(tokens)))
    for shape, indices in found:
        if shape is None:
            assert len(indices) == 1
            assert tokens[indices[0]] > LENGTHS[-1]
            continue
        assert shape in SHAPES
        assert shape.batch * shape.length <= BUDGET
        assert len(indices) <= shape.batch
        assert indices == sorted(indices)  # first come first
        assert all(tokens[index] <= shape.length for index in indices)
        if all(tokens[index] > LENGTHS[0] // 2 for index in indices):
            assert shape.batch * shape.length < 2 * sum(tokens[index] for index in indices)


def test_passes_that_are_alike_run_at_once() -> None:
    assert [(shape and (shape.batch, shape.length), len(indices)) for shape, indices in packs([100] * 32)] == [
        ((32, 128), 32)
    ]
    assert [(shape and shape.batch, len(indices)) for shape, indices in packs([65] * 9)] == [(8, 8), (1, 1)]
    assert [(shape and shape.batch, len(indices)) for shape, indices in packs([90] * 7)] == [(8, 7)]
    assert [(shape and shape.batch, len(indices)) for shape, indices in packs([500] * 9 + [513])] == [
        (None, 1),
        (8, 8),
        (1, 1),
    ]
