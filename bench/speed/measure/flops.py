"""The operations of a pass, by which its time is compared with the machine's peak."""

import numpy as np
import numpy.typing as npt

from guardpass.export.checkpoint.architecture import Architecture

Ints = npt.NDArray[np.int64]


def operations(shape: Architecture, visible: Ints, slots: Ints, rows: int, *, pruned: bool = True) -> float:
    """Multiplications and additions of one pass over T tokens: 2 a weight and token, 4 * head_dim a head, token and
    column that it sees. Norms, rotations of positions, softmax and activations are left out, as is masked attention.

    visible: [T], how many columns each token sees, baked ones and itself included (a mask's row sums; `causal` for a
    chain); a layer's sliding window narrows it. slots: [S], the tokens that are scored. rows: of the vocabulary, that
    each is scored by. pruned: in the last layer all but keys and values is run for the slots alone, as guardpass does.
    """
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    keys = 2 * shape.hidden * kv  # weights of both projections
    rest = 2 * shape.hidden * q + 3 * shape.hidden * shape.ffn
    total = 2 * slots.size * shape.hidden * rows
    for layer, window in enumerate(shape.windows):
        run = visible[slots] if pruned and layer == shape.layers - 1 else visible
        seen = run if window is None else np.minimum(run, window)
        total += 2 * visible.size * keys + 2 * run.size * rest + 4 * q * int(seen.sum())
    return float(total)


def causal(run: int, columns: int) -> Ints:
    """[run]: what each of the last `run` tokens of a chain of `columns` sees."""
    return np.arange(columns - run + 1, columns + 1, dtype=np.int64)
