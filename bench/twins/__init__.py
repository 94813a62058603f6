"""Twins: checkpoints with a published shape, layout and quirks, and random weights.

They answer "how fast, how large" before a 16 GB download; their verdicts mean nothing. Shapes, dtypes, shards
and the order of verdict tokens are those of the model cards and configs. Where a value is not published, the row's
comment says so.
"""

from .published import KANANA_TEMPLATE, TWINS, TokenizerKind, Twin, find
from .write import shapes, tiny, write_twin, write_weights

__all__ = ["KANANA_TEMPLATE", "TWINS", "TokenizerKind", "Twin", "find", "shapes", "tiny", "write_twin", "write_weights"]
