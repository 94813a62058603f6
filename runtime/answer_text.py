"""A verdict in the checkpoint's own words: what a step-by-step decode writes, to the end of the answer."""

from .errors import InputError
from .format.manifest import Choice, Manifest, Tree
from .format.tree import below, depths
from .verdict import Verdict


def answer_ids(manifest: Manifest, verdict: Verdict) -> list[int]:
    """The answer's tokens, less one that stops a decode; of several policies, those of the one that decided.

    Raises InputError for a verdict without an answer.
    """
    spec = manifest.modes[verdict.mode]
    tree = spec.tree
    roots = [root for root in tree.roots if verdict.field in {tree.slots[slot].field for slot in below(tree, root)}]
    if not roots:
        raise InputError("the verdict has no answer of the guard in it")
    deep = depths(tree.parents)
    # What comes before is the end of the prompt: the deepest walk writes `steps` tokens.
    prompt = max(int(deep[tree.slots[each].node]) for each in below(tree, roots[0])) + 2 - spec.steps
    slot = roots[0]
    while True:
        field = verdict.fields[tree.slots[slot].field]
        choice = _choice(manifest, tree, slot, field.label if field else "")
        if choice.next is None:
            return [*_path(tree, tree.slots[slot].node), *choice.last][prompt:]
        slot = choice.next


def _choice(manifest: Manifest, tree: Tree, slot: int, label: str) -> Choice:
    """The choice of a slot that says the label, or leads to where it is said."""
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
    """Tokens from the root to a node, which is included."""
    ids: list[int] = []
    while node >= 0:
        ids.insert(0, tree.tokens[node])
        node = tree.parents[node]
    return ids
