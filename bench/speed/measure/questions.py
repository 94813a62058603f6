"""The questions to contenders: texts of a chosen length, as text and as tokens of the checkpoint's own prompt."""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from guardpass.errors import InputError
from guardpass.export.gate.texts import built_in
from guardpass.format.integrity import open_guard
from guardpass.format.manifest import Mode, Role
from guardpass.format.tree import depths, pruned
from guardpass.plan import Pass, Planner
from guardpass.tokenizer import ContentTokenizer

from ...peers.protocol import Question

_BEGINNING = 12  # characters that no two timed texts have in common, so that no cache knows one by another


@dataclass(frozen=True)
class PlannedQuestion:
    """A question and the pass by which a guard answers it. columns: the scores' columns of the question's labels."""

    text: str  # with the reply, where there is one
    question: Question
    request: Pass
    content: int  # tokens
    columns: tuple[int, ...]


@dataclass(frozen=True)
class Way:
    """How a guard is asked. passes: the policies of each pass, in order; () for a guard without policies."""

    name: str = ""  # behind the guard's
    passes: tuple[tuple[str, ...], ...] = ()


ONE_PASS = Way()


class Questions:
    """Questions to a guard in one mode: by default prompt, or response where the guard has no other. Of several
    policies, the first is asked.

    Raises InputError for a mode that the guard does not have.
    """

    mode: Mode
    policy: str | None

    def __init__(self, guard: Path, mode: Mode | None = None) -> None:
        manifest = open_guard(guard, verify=False)
        self.mode = mode or ("prompt" if "prompt" in manifest.modes else "response")
        if self.mode not in manifest.modes:
            raise InputError(f"{manifest.name} judges {sorted(manifest.modes)}, expected one of them as --mode")
        spec = manifest.modes[self.mode]
        self.policy = spec.asked[0] if spec.asked else None
        self._asked = spec.asked
        self._prefix, self._columns = manifest.prefix.tokens, manifest.columns
        self._tree = pruned(spec.tree, [self.policy] if self.policy else [spec.tree.slots[spec.tree.roots[0]].field])
        self._content = ContentTokenizer.of(guard, manifest)
        self._planner = Planner(manifest, spec, self._tree, self._content)
        depth = depths(self._tree.parents)[[slot.node for slot in self._tree.slots]]
        self._steps = int(depth.max() - depth[self._tree.roots[0]]) + 1
        self._planned = {
            policies: Planner(manifest, spec, pruned(spec.tree, policies), self._content)
            for way in self.ways(whole=True)
            for policies in way.passes
        }
        self._begun: set[str] = set()
        self._splitter = Tokenizer.from_file(str(guard / "tokenizer.json"))

    def of_length(self, tokens: int, count: int, seed: int = 0) -> list[PlannedQuestion]:
        """Texts of exactly `tokens` tokens of content, none of which begins like an earlier one.

        Raises InputError where too few such texts can be cut.
        """
        order = random.Random(f"{seed} {tokens}")
        questions: list[PlannedQuestion] = []
        texts = [item.text for item in built_in("gate").items]
        for _ in range(20 * count):
            if len(questions) == count:
                break
            order.shuffle(texts)
            parts, size = [], 0
            for text in texts * (1 + tokens // 500):
                parts.append(text)
                size += len(text.encode())
                if size > 8 * tokens:
                    break
            whole = " ".join(parts)[order.randrange(len(parts[0])) :].lstrip()  # from the middle of a text
            encoding = self._splitter.encode(whole, add_special_tokens=False)
            planned = self.about(whole[: encoding.offsets[min(tokens, len(encoding.offsets)) - 1][1]])
            beginning = planned.question["text"][:_BEGINNING]
            if planned.content == tokens and beginning not in self._begun:
                self._begun.add(beginning)
                questions.append(planned)
        if len(questions) < count:
            raise InputError(f"found no {count} texts of {tokens} tokens by this tokenizer; choose other --lengths")
        return questions

    def judged(self, count: int, longest: int = 256) -> list[PlannedQuestion]:
        """Built-in texts, spread evenly over all of them: for verdicts, not for time."""
        questions = (self.about(text.text) for text in built_in("gate").items)
        short = [planned for planned in questions if planned.content <= longest]
        size = min(count, len(short))
        return [short[number * len(short) // size] for number in range(size)]

    def ways(self, whole: bool) -> tuple[Way, ...]:
        """How guards are asked: for what peers answer too; whole: also for all policies, at once and one by one."""
        if self.policy is None:
            return (ONE_PASS,)
        policies, first = self._asked, Way("", ((self.policy,),))
        if not whole or len(policies) == 1:
            return (first,)
        return (
            first,
            Way(f", {len(policies)} policies in one pass", (policies,)),
            Way(f", {len(policies)} policies in passes of their own", tuple((policy,) for policy in policies)),
        )

    def requests(self, planned: PlannedQuestion, way: Way) -> list[Pass]:
        """The passes by which a guard answers a question in one way."""
        if not way.passes:
            return [planned.request]
        planners = [self._planned[policies] for policies in way.passes]
        return [planner.plan(planner.span(self._turns(planned.text))) for planner in planners]

    def _turns(self, text: str) -> dict[Role, str]:
        """The turns of a text; in mode response its second half is the reply."""
        if self.mode == "response":
            return {"prompt": text[: len(text) // 2], "response": text[len(text) // 2 :]}
        return {"prompt": text}

    def about(self, text: str) -> PlannedQuestion:
        """The question about a text."""
        turns = self._turns(text)
        request = self._planner.plan(self._planner.span(turns))
        root = self._tree.slots[self._tree.roots[0]]
        tree = np.array(self._tree.tokens)[request.tree_mask[root.node]].tolist()
        span = request.tokens[0, : request.tokens.size - len(self._tree.tokens)].tolist()
        columns = tuple(choice.column for choice in root.choices)
        return PlannedQuestion(
            text=text,
            question={
                "text": turns["prompt"],
                "response": turns.get("response"),
                "ids": [self._prefix[column] for column in request.prefix_columns] + span + tree,
                "labels": [self._columns[column] for column in columns],
                "steps": self._steps,
            },
            request=request,
            content=sum(len(self._content.ids(turn)) for turn in turns.values()),
            columns=columns,
        )
