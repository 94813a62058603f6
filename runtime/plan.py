"""Assembles a pass from the prefix columns, the span and the verdict tree."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .format.manifest import Manifest, ModeSpec, Role, Tree
from .format.tree import ancestors, depths
from .tokenizer import ContentTokenizer, span_ids


@dataclass(frozen=True)
class Pass:
    """One forward run over P baked columns: T tokens (a span, then a tree of N nodes), scored at S slots."""

    tokens: npt.NDArray[np.int64]  # [1, T]
    positions: npt.NDArray[np.int64]  # [1, T]
    slots: npt.NDArray[np.int64]  # [1, S]; rows of the pass
    prefix_columns: tuple[int, ...]  # the baked columns in use, root first
    prefix_len: int  # P
    tree_mask: npt.NDArray[np.bool_]  # [N, N]; True: the node of the row sees the node of the column

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """[1, 1, T, P + T]; True: row sees column. Computed on demand, as its size is square in the tokens."""
        total = self.tokens.size
        baked = self.prefix_len
        text = total - len(self.tree_mask)
        mask = np.zeros((total, baked + total), np.bool_)
        mask[:, self.prefix_columns] = True
        mask[:, baked : baked + text] = np.tri(total, text, dtype=np.bool_)
        mask[text:, baked + text :] = self.tree_mask
        return mask[None, None]


class Planner:
    """Builds passes of one mode, with its whole tree or some branches."""

    def __init__(self, manifest: Manifest, mode: ModeSpec, tree: Tree, tokenizer: ContentTokenizer) -> None:
        self._mode = mode
        self._tokenizer = tokenizer
        self._prefix_len = len(manifest.prefix.tokens)
        self._lead = [manifest.prefix.tokens[column] for column in mode.prefix[len(mode.prefix) - mode.lead :]]
        self._tree = list(tree.tokens)
        self._tree_mask = ancestors(tree.parents)
        self._depths = depths(tree.parents)
        self._slots = np.array([slot.node for slot in tree.slots], np.int64)

    def span(self, texts: dict[Role, str]) -> list[int]:
        """Token ids of the span, encoded as one string, so that merges at the seams are the checkpoint's own."""
        return span_ids(self._mode.span, texts, self._tokenizer.ids)

    def length(self, span: list[int]) -> int:
        """Tokens of prefix, span and whole tree. It counts unused branches too, so that no policy moves a window."""
        return len(self._mode.prefix) - self._mode.lead + len(span) + len(self._mode.tree.tokens)

    def plan(self, span: list[int]) -> Pass:
        """The pass for a span. Tokens that match the baked lead are not run again."""
        lead = 0
        while lead < min(len(self._lead), len(span) - 1) and self._lead[lead] == span[lead]:
            lead += 1
        prefix_columns = self._mode.prefix[: len(self._mode.prefix) - len(self._lead) + lead]
        run = span[lead:] + self._tree
        text = len(span) - lead
        positions = np.concatenate([np.arange(text), text + self._depths]) + len(prefix_columns)
        return Pass(
            tokens=np.array([run], np.int64),
            positions=positions[None].astype(np.int64),
            slots=self._slots[None] + text,
            prefix_columns=prefix_columns,
            prefix_len=self._prefix_len,
            tree_mask=self._tree_mask,
        )
