"""The verdict tree: who sees whom, which part of it a request needs, what its answers mean."""

from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .manifest import Label, Severity, Slot, Tree

# What counts as unsafe to a strict reader (True) and to a loose one.
UNSAFE: dict[bool, frozenset[Severity]] = {True: frozenset({"controversial", "unsafe"}), False: frozenset({"unsafe"})}


def ancestors(parents: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """[N, N], True where the column is the row's node or one of its ancestors."""
    sees = np.eye(len(parents), dtype=np.bool_)
    for node, parent in enumerate(parents):
        if parent >= 0:
            sees[node] |= sees[parent]
    return sees


def leaves(sees: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Nodes that no other node sees, [L]."""
    found: npt.NDArray[np.int64] = np.flatnonzero(sees.sum(axis=0) == 1)
    return found


def severities(labels: tuple[Label, ...], slots: tuple[Slot, ...]) -> list[list[frozenset[Severity]]]:
    """For each choice of each slot, how severe the labels of its field are that it may still come to."""
    result: list[list[frozenset[Severity]]] = [[] for _ in slots]
    for index in reversed(range(len(slots))):  # slots follow those that lead to them
        for choice in slots[index].choices:
            if choice.label is not None:
                result[index].append(frozenset({labels[choice.label].severity}))
            elif choice.next is not None:
                result[index].append(frozenset().union(*result[choice.next]))
    return result


def below(tree: Tree, root: int) -> list[int]:
    """The slots that a walk from `root` may come to, in the order of the tree."""
    found, waiting = [], [root]
    while waiting:
        found.append(waiting.pop())
        waiting += [choice.next for choice in tree.slots[found[-1]].choices if choice.next is not None]
    return sorted(found)


def depths(parents: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """[N], how many ancestors each node has."""
    found = np.zeros(len(parents), np.int64)
    for node, parent in enumerate(parents):
        found[node] = found[parent] + 1 if parent >= 0 else 0
    return found


def pruned(tree: Tree, policies: Collection[str]) -> Tree:
    """The branches of the named policies alone."""
    roots = [root for root in tree.roots if tree.slots[root].field in policies]
    slots = sorted(slot for root in roots for slot in below(tree, root))
    nodes = sorted({node for slot in slots for node in _path(tree, tree.slots[slot].node)})
    node_of = {-1: -1} | {node: index for index, node in enumerate(nodes)}
    slot_of: dict[int | None, int | None] = {None: None} | {slot: index for index, slot in enumerate(slots)}
    return Tree(
        tokens=tuple(tree.tokens[node] for node in nodes),
        parents=tuple(node_of[tree.parents[node]] for node in nodes),
        slots=tuple(
            Slot(
                node_of[tree.slots[slot].node],
                tree.slots[slot].field,
                tuple(replace(choice, next=slot_of[choice.next]) for choice in tree.slots[slot].choices),
            )
            for slot in slots
        ),
        roots=tuple(slots.index(root) for root in roots),
    )


def _path(tree: Tree, node: int) -> Iterator[int]:
    while node >= 0:
        yield node
        node = tree.parents[node]


def judged(labels: tuple[Label, ...], tree: Tree) -> set[str]:
    """Fields with an answer that is not safe."""
    meanings = zip(tree.slots, severities(labels, tree.slots), strict=True)
    return {slot.field for slot, meaning in meanings if any(each != {"safe"} for each in meaning)}
