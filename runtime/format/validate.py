"""Checks that a manifest is consistent: every index is in range, and every walk ends with a verdict."""

import math
import re
from collections.abc import Iterable

from .engines import ENGINES, holds
from .manifest import MANIFEST, Engine, Gate, Manifest, ModeSpec, Tree
from .tree import UNSAFE, judged, severities

_SIZES = range(1, 1 << 44)
_COUNTS = range(1, 1 << 24)
NODES = 1 << 13  # limit of a prefix and of a tree, as masks are square in it
_WALK = 100  # slots from a root to a leaf
_SHA256 = re.compile("[0-9a-f]{64}")


def check(m: Manifest) -> None:
    """Raises ValueError with the path, the expected value and the actual one."""
    if m.context not in _COUNTS or m.vocab not in _COUNTS:
        raise ValueError(f"context, vocab: expected positive counts, found {m.context}, {m.vocab}")
    _ids("columns", m.columns, m.vocab)
    _ids("prefix.tokens", m.prefix.tokens, m.vocab)
    _ids("reserved", m.reserved.values(), m.vocab)
    _parents("prefix", m.prefix.parents, len(m.prefix.tokens))
    if not m.modes or not m.modes.keys() <= {"prompt", "response"}:
        raise ValueError(f"modes: expected prompt and/or response, found {sorted(m.modes)}")
    if len(set(m.columns)) != len(m.columns):
        raise ValueError("columns: expected distinct token ids")
    if not all([*m.literals, *m.reserved]):
        raise ValueError("literals, reserved: expected no empty text")
    for name, mode in m.modes.items():
        _mode(m, mode, f"modes.{name}", ["prompt"] if name == "prompt" else ["prompt", "response"])
    _gate(m)
    _engine(m.engine)
    needed = {ENGINES[m.engine.name].model, "tokenizer.json"}
    if not m.files.keys() >= needed:
        raise ValueError(f"files: expected {sorted(needed)} among them, found {sorted(m.files)}")
    for file_name, file in m.files.items():
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", file_name) or file_name == MANIFEST:
            raise ValueError(f"files: {file_name!r} is not a plain file name")
        if file.size not in _SIZES or not _SHA256.fullmatch(file.sha256):
            raise ValueError(f"files.{file_name}: size or sha256 out of range")


def _engine(engine: Engine) -> None:
    if holds(engine):
        return
    choices = (f"{' and '.join(quants)} on the {device}" for device, quants in ENGINES[engine.name].quants.items())
    raise ValueError(f"engine: {engine.name} runs {', '.join(choices)}, found {engine.quant} on {engine.device}")


def _gate(m: Manifest) -> None:
    if (m.gate is None) == (m.ungated is None):
        raise ValueError(f"gate, ungated: expected one of them, found {m.gate and 'a gate'} and {m.ungated!r}")
    if m.gate is None:
        return
    gate: Gate = m.gate
    hashes = [gate.sha256, *(flip.sha256 for flip in gate.flips)]
    if gate.texts not in _COUNTS or not all(map(_SHA256.fullmatch, hashes)):
        raise ValueError("gate: a count or sha256 out of range")
    shares = (gate.agreement, gate.mean_score_change, gate.worst_score_change, gate.max_flip_rate)
    if not all(0 <= share <= 1 for share in shares) or not 0 <= gate.kl < math.inf:
        raise ValueError("gate: expected shares from 0 to 1, and a kl that is not negative")
    if not all(math.isfinite(margin) for flip in gate.flips for margin in (flip.reference, flip.found)):
        raise ValueError("gate.flips: expected margins that are finite")


def _mode(m: Manifest, mode: ModeSpec, where: str, roles: list[str]) -> None:
    _ids(f"{where}.prefix", mode.prefix, len(m.prefix.tokens))
    _ids(f"{where}.lead", [mode.lead], len(mode.prefix) + 1)
    if [m.prefix.parents[column] for column in mode.prefix] != [-1, *mode.prefix][: len(mode.prefix)]:
        raise ValueError(f"{where}.prefix: expected a chain from a root, each column the parent of the next")
    if len(mode.prefix) >= m.context:
        raise ValueError(f"{where}.prefix: {len(mode.prefix)} tokens leave nothing of a context of {m.context}")
    content = [piece.role for piece in mode.span if piece.role]
    if sorted(content) != roles or any(piece.role and (piece.text or piece.ids) for piece in mode.span):
        raise ValueError(f"{where}.span: expected content {roles}, found {content}")
    for piece in mode.span:
        _ids(f"{where}.span.ids", piece.ids, m.vocab)
    if mode.steps not in _COUNTS:
        raise ValueError(f"{where}.steps: expected a positive count, found {mode.steps}")
    _tree(m, mode.tree, f"{where}.tree")
    _walks(m, mode, where)
    fields = judged(m.labels, mode.tree)
    for field, threshold in mode.thresholds.items():
        if field not in fields or not 0 <= threshold.score <= 1:
            raise ValueError(
                f"{where}.thresholds.{field}: expected a field of {sorted(fields)}, and a score from 0 to 1"
            )
        if threshold.texts not in _COUNTS or not _SHA256.fullmatch(threshold.sha256):
            raise ValueError(f"{where}.thresholds.{field}: texts or sha256 out of range")


def _tree(m: Manifest, tree: Tree, where: str) -> None:
    """Check the indices. Every slot but a root must follow exactly one choice, whose token leads to its node."""
    _ids(f"{where}.tokens", tree.tokens, m.vocab)
    _parents(where, tree.parents, len(tree.tokens))
    _ids(f"{where}.roots", tree.roots, len(tree.slots))
    leading = list(tree.roots)
    walked = [0] * len(tree.slots)
    for index, slot in enumerate(tree.slots):
        place = f"{where}.slots[{index}]"
        _ids(f"{place}.node", [slot.node], len(tree.tokens))
        _ids(f"{place}.column", (choice.column for choice in slot.choices), len(m.columns))
        if len(slot.choices) < 2 or len({choice.column for choice in slot.choices}) != len(slot.choices):
            raise ValueError(f"{place}.choices: expected two or more, each of its own column")
        for choice in slot.choices:
            if choice.label is not None:
                _ids(f"{place}.label", [choice.label], len(m.labels))
            _ids(f"{place}.last", choice.last, m.vocab)
            if choice.last and (choice.next is not None or choice.last[0] != m.columns[choice.column]):
                raise ValueError(f"{place}.last: expected none where a slot follows, else the chosen token first")
            if choice.next is None:
                if choice.label is None:
                    raise ValueError(f"{place}: a choice without a label leads to no slot")
                continue
            if not index < choice.next < len(tree.slots):
                raise ValueError(f"{place}.next: expected a later slot, found {choice.next}")
            leading.append(choice.next)
            walked[choice.next] = walked[index] + 1
            if walked[choice.next] >= _WALK:
                raise ValueError(f"{place}.next: expected walks of at most {_WALK} slots")
            follower = tree.slots[choice.next]
            if choice.label is None and follower.field != slot.field:
                raise ValueError(f"{place}: a choice without a label leads to another field, {follower.field!r}")
            if _step(tree, slot.node, follower.node) != m.columns[choice.column]:
                raise ValueError(f"{place}.next: slot {choice.next} does not stand behind the chosen token")
    if sorted(leading) != list(range(len(tree.slots))):
        raise ValueError(f"{where}.slots: expected each to be a root or to follow one choice, found {sorted(leading)}")


def _step(tree: Tree, above: int, below: int) -> int | None:
    """The first token on the way from a node down to one below it."""
    while 0 <= below < len(tree.parents) and tree.parents[below] != above:
        below = tree.parents[below]
    return tree.tokens[below] if 0 <= below < len(tree.tokens) else None


def _walks(m: Manifest, mode: ModeSpec, where: str) -> None:
    """Check that every walk passes a deciding field, and that every such field has safe and unsafe labels."""
    slots = mode.tree.slots
    roots = [slots[root].field for root in mode.tree.roots]
    if not roots or len(set(roots)) != len(roots):
        raise ValueError(f"{where}.tree.roots: expected one or more, of distinct fields, found {roots}")
    defaults = set(mode.asked)
    if (len(roots) > 1 or defaults) and not (defaults and defaults <= set(roots)):
        raise ValueError(f"{where}.asked: expected some of {roots}, found {sorted(defaults)}")
    if not set(mode.decides) <= {slot.field for slot in slots}:
        raise ValueError(f"{where}.decides: expected fields of the tree, found {list(mode.decides)}")
    decided = [False] * len(slots)  # by slot, whether every walk from it passes a deciding field
    for index in reversed(range(len(slots))):
        slot = slots[index]
        below = [choice.next is not None and decided[choice.next] for choice in slot.choices]
        decided[index] = slot.field in mode.decides or all(below)
    if not all(decided[root] for root in mode.tree.roots):
        raise ValueError(f"{where}.tree: expected every walk to pass one of {list(mode.decides)}")
    inner = {choice.next for slot in slots for choice in slot.choices if choice.label is None}
    for index, (slot, meanings) in enumerate(zip(slots, severities(m.labels, slots), strict=True)):
        for counted in UNSAFE.values():
            if any(not meaning <= counted and meaning & counted for meaning in meanings):
                raise ValueError(f"{where}.tree.slots[{index}]: a choice leads to safe labels and to unsafe ones")
            flags = {meaning <= counted for meaning in meanings}
            if slot.field in mode.decides and index not in inner and len(flags) < 2:
                raise ValueError(
                    f"{where}.tree.slots[{index}].choices: expected at least one safe and one unsafe label"
                )


def _ids(path: str, values: Iterable[int], limit: int) -> None:
    for value in values:
        if not 0 <= value < limit:
            raise ValueError(f"{path}: expected numbers from 0 to {limit - 1}, found {value}")


def _parents(path: str, parents: tuple[int, ...], count: int) -> None:
    if count > NODES:
        raise ValueError(f"{path}: expected at most {NODES} tokens, found {count}")
    if len(parents) != count or any(not -1 <= parent < node for node, parent in enumerate(parents)):
        raise ValueError(f"{path}.parents: expected {count} parents, each before its child")
