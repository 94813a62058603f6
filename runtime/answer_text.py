"""A verdict as the checkpoint's own answer: the tokens that a step-by-step decode generates."""

from .errors import InputError
from .format.manifest import Choice, Manifest, Tree
from .format.tree import below, depths
from .verdict import Verdict


def answer_ids(manifest: Manifest, verdict: Verdict) -> list[int]:
    """The tokens of the answer, without a stop token. Of several policies, the deciding one gives the answer.

    Raises InputError for a verdict without an answer.
    """
    spec = manifest.modes[verdict.mode]
    tree = spec.tree
    roots = [root for root in tree.roots if verdict.field in {tree.slots[slot].field for slot in below(tree, root)}]
    if not roots:
        raise InputError("the verdict holds no answer of the guard; pass a verdict that this guard decided")
    depth = depths(tree.parents)
    # The deepest walk generates `steps` tokens; the nodes before them are the end of the prompt.
    prompt = max(int(depth[tree.slots[number].node]) for number in below(tree, roots[0])) + 2 - spec.steps
    slot = roots[0]
    while True:
        field = verdict.fields[tree.slots[slot].field]
        choice = _choice(manifest, tree, slot, field.label if field else "")
        if choice.next is None:
            return [*_path(tree, tree.slots[slot].node), *choice.last][prompt:]
        slot = choice.next


def _choice(manifest: Manifest, tree: Tree, slot: int, label: str) -> Choice:
    """The choice of a slot that gives the label, or leads to the slot that gives it."""
    for choice in tree.slots[slot].choices:
        if choice.label is not None and manifest.labels[choice.label].name == label:
            return choice
    for choice in tree.slots[slot].choices:
        if choice.label is None and choice.next is not None:
            try:
                _choice(manifest, tree, choice.next, label)
            except InputError:
                continue
            return choice
    raise InputError(f"{tree.slots[slot].field} has no label {label!r}")


def _path(tree: Tree, node: int) -> list[int]:
    """The tokens from the root down to a node, inclusive."""
    ids: list[int] = []
    while node >= 0:
        ids.insert(0, tree.tokens[node])
        node = tree.parents[node]
    return ids
