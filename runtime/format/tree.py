"""Operations on the verdict tree: ancestors, branches of policies, severities of choices."""

from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .manifest import Label, Severity, Slot, Tree

# By `strict`: the severities that count as unsafe.
UNSAFE: dict[bool, frozenset[Severity]] = {True: frozenset({"controversial", "unsafe"}), False: frozenset({"unsafe"})}


def ancestors(parents: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """[N, N], True where the column is the node of the row or one of its ancestors."""
    mask = np.eye(len(parents), dtype=np.bool_)
    for node, parent in enumerate(parents):
        if parent >= 0:
            mask[node] |= mask[parent]
    return mask


def leaves(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """[L], the nodes that no other node sees. mask: that of `ancestors`."""
    nodes: npt.NDArray[np.int64] = np.flatnonzero(mask.sum(axis=0) == 1)
    return nodes


def severities(labels: tuple[Label, ...], slots: tuple[Slot, ...]) -> list[list[frozenset[Severity]]]:
    """For each choice of each slot, the severities of the labels of its field that it may lead to."""
    result: list[list[frozenset[Severity]]] = [[] for _ in slots]
    for index in reversed(range(len(slots))):  # a slot follows the slots that lead to it
        for choice in slots[index].choices:
            if choice.label is not None:
                result[index].append(frozenset({labels[choice.label].severity}))
            elif choice.next is not None:
                result[index].append(frozenset().union(*result[choice.next]))
    return result


def below(tree: Tree, root: int) -> list[int]:
    """The slots that a walk from `root` may reach, in the order of the tree."""
    reached: list[int] = []
    pending = [root]
    while pending:
        slot = pending.pop()
        reached.append(slot)
        pending += [choice.next for choice in tree.slots[slot].choices if choice.next is not None]
    return sorted(reached)


def depths(parents: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """[N], the number of ancestors of each node."""
    depth = np.zeros(len(parents), np.int64)
    for node, parent in enumerate(parents):
        depth[node] = depth[parent] + 1 if parent >= 0 else 0
    return depth


def pruned(tree: Tree, policies: Collection[str]) -> Tree:
    """The tree with only the branches of the named policies."""
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
    """The fields with at least one answer that is not safe."""
    rows = zip(tree.slots, severities(labels, tree.slots), strict=True)
    return {slot.field for slot, choices in rows if any(severity != {"safe"} for severity in choices)}
