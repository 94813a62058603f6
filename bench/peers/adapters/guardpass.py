"""guardpass itself: a guard directory judges the text, tokenization included.

options: path, threads, passes (of a guard with policies: those of each pass; the first one's answer counts).
"""

from typing import Any

from guardpass import Guard
from guardpass.format.manifest import Manifest, Tree

PACKAGES = ("guardpass", "onnxruntime", "guardpass-kernels", "llama-cpp-python", "numpy", "tokenizers")


def load(options: dict[str, Any]) -> Any:
    # Peers are given the text as it stands, and in no other form.
    guard = Guard.load(options["path"], threads=options["threads"], normalize="off")
    passes: list[list[str] | None] = options.get("passes", [None])
    fields = {name: _first_field(guard.manifest, name, passes[0]) for name in guard.manifest.modes}
    tokens = {name: _tokens(guard.manifest, name, field) for name, field in fields.items()}

    def one(question: dict[str, Any]) -> dict[str, Any]:
        # Argmax, as the peers go by it: {} leaves calibrated thresholds aside.
        verdicts = [guard.check(question["text"], question["response"], policies=each, threshold={}) for each in passes]
        mode = verdicts[0].mode
        field = verdicts[0].fields[fields[mode]]
        assert field
        tokenize, run, total = (
            sum(getattr(verdict.ms, name) for verdict in verdicts) for name in ("tokenize", "run", "total")
        )
        return {
            "label": question["labels"].index(tokens[mode][field.label]),
            "split": {"tokenize": tokenize, "pass": run, "rest": total - tokenize - run},
            "run": sum(verdict.tokens.run for verdict in verdicts),
        }

    return lambda questions: [one(each) for each in questions]


def _first_field(manifest: Manifest, mode: str, policies: list[str] | None) -> str:
    """Whose slot answers the question: of the policies asked for the first, else the tree's first of those asked."""
    if policies:
        return policies[0]
    spec = manifest.modes[mode]
    roots = [spec.tree.slots[root].field for root in spec.tree.roots]
    asked = spec.asked or roots
    return next(root for root in roots if root in asked)


def _tokens(manifest: Manifest, mode: str, field: str) -> dict[str, int]:
    """Labels of a root's field, and the token that the root's slot chooses on the way to each."""
    tree = manifest.modes[mode].tree
    root = next(root for root in tree.roots if tree.slots[root].field == field)
    return {
        manifest.labels[label].name: manifest.columns[choice.column]
        for choice in tree.slots[root].choices
        for label in _labels(tree, choice.label, choice.next, field)
    }


def _labels(tree: Tree, label: int | None, following: int | None, field: str) -> list[int]:
    if label is not None:
        return [label]
    if following is None or tree.slots[following].field != field:
        return []
    return [found for each in tree.slots[following].choices for found in _labels(tree, each.label, each.next, field)]
