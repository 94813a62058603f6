"""The probability that an unsafe answer names each OpenAI category, over all answers of the tree."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .format.manifest import Choice, Label, Severity, Slot, Tree
from .format.tree import UNSAFE, below, judged

Logits = npt.NDArray[np.float64]


def names_category(label: Label, judges: bool) -> bool:
    """Whether an answer with this label names a category.

    judges: the field has unsafe labels, so a safe label denies the category.
    """
    return not judges or label.severity != "safe"


@dataclass(frozen=True)
class _End:
    """A complete answer: its last choice, and the categories and severities of all its labels."""

    slot: int
    choice: int
    names: frozenset[str]
    severities: frozenset[Severity]  # of the labels of deciding fields


class OpenAIScores:
    """Reads the scores of one tree. Every slot has scores, whether or not the walk reaches it."""

    def __init__(self, labels: tuple[Label, ...], decides: Collection[str], tree: Tree) -> None:
        self._labels = labels
        self._decides = decides
        self._slots = tree.slots
        self._judged = judged(labels, tree)
        self._below = {root: below(tree, root) for root in tree.roots}
        self._ends = {
            root: [end for end in self._walk(root, frozenset(), frozenset()) if end.names] for root in tree.roots
        }

    def of(self, root: int, logits: Sequence[Logits], strict: bool) -> dict[str, float]:
        """By category, the probability of an unsafe answer from `root` on that names it."""
        ends = [end for end in self._ends[root] if end.severities & UNSAFE[strict]]
        if not ends:
            return {}
        reached = {root: 1.0}
        shares: dict[int, list[float]] = {}
        for slot in self._below[root]:  # a slot follows the slots that lead to it
            row = logits[slot]
            shares[slot] = (reached[slot] * np.exp(row - np.logaddexp.reduce(row))).tolist()
            for choice, share in zip(self._slots[slot].choices, shares[slot], strict=True):
                if choice.next is not None:
                    reached[choice.next] = share
        scores: dict[str, float] = {}
        for end in ends:
            for name in end.names:
                scores[name] = scores.get(name, 0.0) + shares[end.slot][end.choice]
        return {name: min(score, 1.0) for name, score in sorted(scores.items())}

    def _walk(self, slot: int, names: frozenset[str], severities: frozenset[Severity]) -> Iterator[_End]:
        for index, choice in enumerate(self._slots[slot].choices):
            named, severe = self._said(self._slots[slot], choice, names, severities)
            if choice.next is None:
                yield _End(slot, index, named, severe)
            else:
                yield from self._walk(choice.next, named, severe)

    def _said(
        self, slot: Slot, choice: Choice, names: frozenset[str], severities: frozenset[Severity]
    ) -> tuple[frozenset[str], frozenset[Severity]]:
        if choice.label is None:
            return names, severities
        label = self._labels[choice.label]
        if label.openai and names_category(label, slot.field in self._judged):
            names |= {label.openai}
        return names, severities | {label.severity} if slot.field in self._decides else severities
