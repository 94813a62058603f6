"""Published guards without weights: their trees over a tiny twin's tokenizer, and verdicts from made-up scores."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from guardpass import Verdict
from guardpass.answer_text import answer_ids
from guardpass.bench.twins import find, tiny, write_twin
from guardpass.decide import Decider, ScoreOptions, combined
from guardpass.export.checkpoint.files import Checkpoint
from guardpass.export.checkpoint.tokenizer import CheckpointTokenizer
from guardpass.export.guard_dir.manifest import draft
from guardpass.export.prompt.build import build_prompts
from guardpass.format.manifest import Choice, Engine, Manifest, Mode, ModeSpec, Source, Tree
from guardpass.format.tree import pruned
from guardpass.tokenizer import ContentTokenizer
from guardpass.verdict import Milliseconds, Tokens

from .published import EVERY, Case, Fields

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MadeUp:
    """`trees`: with the policies asked by default. `reference`: the twin's tokenizer in transformers."""

    case: Case
    manifest: Manifest
    tokenizer: ContentTokenizer
    reference: Any
    trees: dict[Mode, Tree]
    deciders: dict[Mode, Decider]

    def tree(self, mode: Mode) -> Tree:
        return self.trees[mode]

    def scores(self, mode: Mode, seed: int) -> Scores:
        size = len(self.tree(mode).slots), len(self.manifest.columns)
        return np.random.default_rng(seed).normal(scale=3, size=size).astype(np.float32)

    def verdict(self, mode: Mode, *windows: Scores, options: ScoreOptions | None = None) -> Verdict:
        outcomes = [self.deciders[mode].decide(scores, options or ScoreOptions()) for scores in windows]
        return combined(
            outcomes,
            mode=mode,
            windows=len(windows),
            truncated=False,
            normalized=False,
            suspicious_literals=(),
            tokens=Tokens(0, 0),
            ms=Milliseconds(0.0, 0.0, 0.0),
        )

    def answered(self, mode: Mode, fields: Fields, policy: str | None) -> Scores:
        """Scores of a guard that gives this answer to the policy, and "No" to the others."""
        tree, scores = self.tree(mode), self.scores(mode, 0)
        for root in tree.roots:
            asked = tree.slots[root].field
            said = fields if policy is None else {asked: fields["verdict"] if asked == policy else "No"}
            slot: int | None = root
            while slot is not None:
                field = tree.slots[slot].field
                choice = next(each for each in tree.slots[slot].choices if said[field] in self.leads(tree, field, each))
                # The policy asked decides also where all say no: its "No" is the least sure.
                scores[slot, choice.column] = scores.max() + (1 if asked == policy else 9)
                slot = choice.next
        return scores

    def leads(self, tree: Tree, field: str, choice: Choice) -> set[str]:
        """Labels of the field that a choice says, or may come to."""
        if choice.label is not None:
            return {self.manifest.labels[choice.label].name}
        assert choice.next is not None
        return set().union(*(self.leads(tree, field, each) for each in tree.slots[choice.next].choices))

    def text(self, verdict: Verdict) -> str:
        """What Guard.answer_text gives."""
        return self.tokenizer.text(answer_ids(self.manifest, verdict))

    def every_answer(self, mode: Mode) -> Iterator[tuple[str, Fields, Verdict]]:
        """Each answer that the guard may give, as published.py spells it, and the verdict it is."""
        for policy in self.case.row.asked or (None,):
            for answer, fields in self.case.answers(mode).items():
                yield answer, fields, self.verdict(mode, self.answered(mode, fields, policy))

    @property
    def modes(self) -> tuple[Mode, ...]:
        return tuple(self.case.row.modes)


@cache
def made_up(case: Case) -> MadeUp:
    with TemporaryDirectory() as scratch:
        directory = Path(scratch)
        write_twin(tiny(find(case.twin)), directory / "twin")
        source = Checkpoint(directory / "twin")
        tokenizer = CheckpointTokenizer(source)
        manifest = draft(
            directory,
            Engine("onnx", "fp32", "cpu"),
            Source("twin", None, "", {}),
            case.family,
            build_prompts(case.row, source, tokenizer, case.date),
            tokenizer,
            name="twin",
            context=8192,
            vocab=source.config["vocab_size"],
        )
        reference = PreTrainedTokenizerFast.from_pretrained(directory / "twin")
        content = ContentTokenizer.of(directory, manifest)
    specs: dict[Mode, ModeSpec] = {mode: manifest.modes[mode] for mode in case.row.modes}
    roots = {mode: [spec.tree.slots[root].field for root in spec.tree.roots] for mode, spec in specs.items()}
    trees = {mode: pruned(spec.tree, spec.asked or roots[mode]) for mode, spec in specs.items()}
    deciders = {mode: Decider(manifest, specs[mode], tree) for mode, tree in trees.items()}
    return MadeUp(case, manifest, content, reference, trees, deciders)


def by_family(name: str) -> MadeUp:
    return made_up(next(case for case in EVERY if case.family == name))
