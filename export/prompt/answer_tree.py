"""From complete answers, as token ids, to the verdict tree: where answers part, there are slots."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile

from guardpass.errors import CheckpointError
from guardpass.format.manifest import Choice, Label, Slot, Tree
from guardpass.format.tree import UNSAFE


@dataclass(frozen=True)
class Answered:
    """One complete answer behind its prompt: token ids from the tree's first on, and the labels it stands for."""

    ids: tuple[int, ...]
    decisions: tuple[tuple[str, int], ...]  # fields, and indices into the guard's labels


@dataclass(frozen=True)
class Branch:
    """A prompt's end, `tail` tokens long, and every answer to it."""

    tail: int
    answers: tuple[Answered, ...]


class TreeBuilder:
    """Adds branches to one trie. `columns`, the tokens that slots choose among, may be shared between trees.

    stops: tokens that stop a decode.
    """

    def __init__(
        self, labels: Sequence[Label], columns: list[int], show: Callable[[int], str | None], stops: Collection[int]
    ) -> None:
        self._labels, self._columns, self._show, self._stops = labels, columns, show, stops
        self._tokens: list[int] = []
        self._parents: list[int] = []
        self._nodes: dict[tuple[int, int], int] = {}  # (parent, token) to node
        self._slots: list[Slot] = []
        self.steps = 0  # tokens that a step-by-step decode would write, at most

    def build(self, branches: Sequence[Branch]) -> Tree:
        """Raises CheckpointError where the tokenizer does not tell answers apart as it must."""
        roots = []
        for branch in branches:
            roots.append(self._slot(branch.answers, 0, 0))
            deepest = max(self._depth(slot.node) for slot in self._slots[roots[-1] :])
            self.steps = max(self.steps, deepest + 2 - branch.tail)
        return Tree(tuple(self._tokens), tuple(self._parents), tuple(self._slots), tuple(roots))

    def _slot(self, answers: Sequence[Answered], decided: int, at: int) -> int:
        """The slot where answers that agree on their first `decided` decisions and `at` tokens part."""
        field = answers[0].decisions[decided][0]
        shortest = min(len(answer.ids) for answer in answers)
        while at < shortest and len({answer.ids[at] for answer in answers}) == 1:
            at += 1
        if at == shortest:
            raise CheckpointError(
                f"an answer of {field} begins another, and nothing ends it: {self._split(answers, decided, at - 1)}; "
                "let text follow both, such as a line break"
            )
        if at == 0:
            raise CheckpointError(
                f"nothing stands between the text and the answer of {field}, so both could merge; "
                "the prompt has to end with text of its own"
            )
        number = len(self._slots)
        self._slots.append(Slot(self._node(answers[0].ids[:at]), field, ()))
        groups: dict[int, list[Answered]] = {}
        for answer in answers:
            groups.setdefault(answer.ids[at], []).append(answer)
        spoken = [label for group in groups.values() for label in {answer.decisions[decided][1] for answer in group}]
        if len(set(spoken)) != len(spoken):
            raise CheckpointError(
                f"an answer of {field} is split in more than one way, depending on what follows: "
                f"{self._split(answers, decided, at - 1)}; begin what follows with a character that stays apart"
            )
        choices = tuple(self._choice(token, group, decided, at + 1) for token, group in groups.items())
        self._slots[number] = Slot(self._slots[number].node, field, choices)
        return number

    def _choice(self, token: int, group: Sequence[Answered], decided: int, at: int) -> Choice:
        if token not in self._columns:
            self._columns.append(token)
        column = self._columns.index(token)
        labels = {answer.decisions[decided][1] for answer in group}
        if len(labels) > 1:
            for counted in UNSAFE.values():
                if len({self._labels[label].severity in counted for label in labels}) > 1:
                    raise CheckpointError(
                        "a safe and an unsafe answer begin with the same token, so one score cannot tell them apart: "
                        f"{self._split(group, decided, at - 1)}; write them as the checkpoint does, spaces included"
                    )
            return Choice(column, None, self._slot(group, decided, at))
        (label,) = labels
        if len(group[0].decisions) > decided + 1:
            return Choice(column, label, self._slot(group, decided + 1, at))
        last = tuple(takewhile(lambda id: id not in self._stops, group[0].ids[at - 1 :]))
        # A guard whose first word stops it says something all the same.
        return Choice(column, label, None, last if decided else last or (token,))

    def _node(self, ids: Sequence[int]) -> int:
        node = -1
        for token in ids:
            key = (node, token)
            if key not in self._nodes:
                self._nodes[key] = len(self._tokens)
                self._tokens.append(token)
                self._parents.append(node)
            node = self._nodes[key]
        return node

    def _depth(self, node: int) -> int:
        depth = 0
        while self._parents[node] >= 0:
            node, depth = self._parents[node], depth + 1
        return depth

    def _split(self, answers: Sequence[Answered], decided: int, at: int) -> str:
        rows = {self._labels[answer.decisions[decided][1]].text: answer.ids[at:] for answer in answers}
        return ", ".join(f"{text!r} in {list(map(self._show, ids))}" for text, ids in rows.items())[:600]
