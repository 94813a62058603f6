"""The output of `guardpass info`: baked and computed tokens of a guard, and its verdict tree as text."""

from collections.abc import Callable, Iterator
from typing import Any

from .format.codec import encode
from .format.manifest import Label, Manifest, ModeSpec, Tree, Ungated
from .format.tree import below, depths, pruned
from .judge import Judge
from .tokenizer import ContentTokenizer
from .windows import Limits

_UNGATED: dict[Ungated, str] = {
    "asked": "the export skipped it on request",
    "unquantized": "nothing was quantized",
    "adopted": "an adopted GGUF comes without weights to compare it with",
}


def describe(manifest: Manifest, tokenizer: ContentTokenizer) -> dict[str, Any]:
    """The output of `guardpass info --json`. Token counts assume empty content and the default policies."""
    body = {key: encode(getattr(manifest, key)) for key in ("name", "family", "guardpass", "schema", "context")}
    engine = manifest.engine
    body |= {"engine": engine.name, "quant": engine.quant, "device": engine.device}
    judge = Judge(manifest, tokenizer, Limits(manifest.context, 1, "refuse"))
    body["modes"] = {name: _mode(judge, name, mode) for name, mode in manifest.modes.items()}
    return body | {key: encode(getattr(manifest, key)) for key in ("labels", "source", "gate", "ungated", "files")}


def _mode(judge: Judge, name: str, mode: ModeSpec) -> dict[str, Any]:
    roots = [mode.tree.slots[root].field for root in mode.tree.roots]
    tree = pruned(mode.tree, mode.asked or roots)
    (request,) = judge.plan(judge.request("", "" if name == "response" else None)).passes
    deep = depths(tree.parents)
    # A branch ends at its deepest slot. Tokens that a step-by-step decode generates are not part of its prompt.
    ends = [max(deep[tree.slots[slot].node] for slot in below(tree, root)) + 1 for root in tree.roots]
    before = len(request.prefix_columns) + request.tokens.size - len(tree.tokens)
    return {
        "prefix": len(mode.prefix),
        "span": request.tokens.size - len(tree.tokens),
        "tree": len(tree.tokens),
        "slots": len(tree.slots),
        "fields": list(dict.fromkeys(slot.field for slot in tree.slots)),
        "policies": roots if mode.asked else [],
        "asked": list(mode.asked),
        "thresholds": encode(mode.thresholds),
        "step_by_step": {
            "prompts": len(ends),
            "tokens": sum(before + int(end) + 1 - mode.steps for end in ends),
            "steps": len(ends) * (mode.steps - 1),
        },
    }


def gate_line(manifest: Manifest) -> str:
    """The result of the gate at export, or the reason that there is none."""
    gate = manifest.gate
    if gate is None:
        return "none" if manifest.ungated is None else f"none, {_UNGATED[manifest.ungated]}"
    ran = "" if gate.device == manifest.engine.device else f", run on the {gate.device}"
    return (
        f"{gate.agreement:.2%} of {gate.texts} verdicts ({gate.source}) as in fp32, {len(gate.flips)} flips, "
        f"kl {gate.kl:.2g}, scores {gate.mean_score_change:.2g} off in the mean, {gate.worst_score_change:.2g} at worst"
        + ran
    )


def labels_of(manifest: Manifest) -> dict[str, list[Label]]:
    """By field, the labels over all modes."""
    labels: dict[str, dict[Label, None]] = {}
    for mode in manifest.modes.values():
        for slot in mode.tree.slots:
            answers = (manifest.labels[choice.label] for choice in slot.choices if choice.label is not None)
            labels.setdefault(slot.field, {}).update(dict.fromkeys(answers))
    return {field: list(unique) for field, unique in labels.items()}


def draw(manifest: Manifest, tree: Tree, text: Callable[[int], str]) -> Iterator[str]:
    """The tree as lines: forced tokens in quotes, then the slot's field, then each choice and its subtree."""
    for root in tree.roots:
        yield from _slot(manifest, tree, root, -1, "", text)


def _slot(
    manifest: Manifest, tree: Tree, number: int, above: int, indent: str, text: Callable[[int], str]
) -> Iterator[str]:
    slot = tree.slots[number]
    path: list[int] = []
    node = slot.node
    while node != above:
        path.insert(0, tree.tokens[node])
        node = tree.parents[node]
    forced = "".join(map(text, path))
    shown = repr(forced if len(forced) <= 72 else f"{forced[:40]} ... {forced[-28:]}")
    yield f"{indent}{shown} ({len(path)} tokens)  {slot.field}?" if path else f"{indent}{slot.field}?"
    for choice in slot.choices:
        label = manifest.labels[choice.label].name if choice.label is not None else "..."
        chosen = text(manifest.columns[choice.column])
        yield f"{indent}  {chosen!r} {label}"
        if choice.next is not None:
            yield from _slot(manifest, tree, choice.next, slot.node, indent + "    ", text)
