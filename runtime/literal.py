"""A verdict in the checkpoint's own words: what a step-by-step decode would have written."""

from .content import ContentTokenizer
from .errors import InputError
from .manifest import Choice, Manifest, Tree
from .tree import below, depths
from .verdict import Verdict


def literal(manifest: Manifest, tokenizer: ContentTokenizer, verdict: Verdict) -> str:
    """The answer as text; of several policies, that of the one that decided. Raises InputError where none was given."""
    spec = manifest.modes[verdict.mode]
    tree = spec.tree
    roots = [root for root in tree.roots if verdict.field in {tree.slots[slot].field for slot in below(tree, root)}]
    if not roots:
        raise InputError("the verdict has no answer of the guard in it")
    slot: int | None = roots[0]
    deep = depths(tree.parents)
    # What comes before is the end of the prompt: the deepest walk writes `steps` tokens.
    prompt = max(int(deep[tree.slots[each].node]) for each in below(tree, roots[0])) + 2 - spec.steps
    ids: list[int] = []
    while slot is not None:
        node = tree.slots[slot].node
        field = verdict.fields[tree.slots[slot].field]
        choice = _choice(manifest, tree, slot, field.label if field else "")
        ids = [*_path(tree, node), manifest.columns[choice.column]]
        slot = choice.next
    return "".join(map(tokenizer.shown, ids[prompt:]))


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
