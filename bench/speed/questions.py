"""What contenders are asked: texts of a given length, and the same as the checkpoint's own prompt, in tokens."""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from guardpass.content import ContentTokenizer
from guardpass.errors import InputError
from guardpass.export.gate_texts import built_in
from guardpass.integrity import open_guard
from guardpass.manifest import Mode, Role
from guardpass.passes import Pass, Planner
from guardpass.tree import pruned

from ..peers.protocol import Question

_BEGINNING = 12  # characters that no two timed texts have in common, so that no cache knows one by another


@dataclass(frozen=True)
class Asked:
    """A question, and the pass by which a guard answers it. columns: of the scores, those of the question's labels."""

    question: Question
    request: Pass
    content: int  # tokens
    columns: tuple[int, ...]


class Questions:
    """Questions to a guard in one mode: prompt, or response where it has no other. Of several policies to the first."""

    mode: Mode
    policy: str | None

    def __init__(self, guard: Path) -> None:
        manifest = open_guard(guard, verify=False)
        self.mode = "prompt" if "prompt" in manifest.modes else "response"
        spec = manifest.modes[self.mode]
        self.policy = spec.asked[0] if spec.asked else None
        self._prefix, self._columns = manifest.prefix.tokens, manifest.columns
        self._tree = pruned(spec.tree, [self.policy] if self.policy else [spec.tree.slots[spec.tree.roots[0]].field])
        self._content = ContentTokenizer.of(guard, manifest)
        self._planner = Planner(manifest, spec, self._tree, self._content)
        self._begun: set[str] = set()
        self._splitter = Tokenizer.from_file(str(guard / "tokenizer.json"))

    def of_length(self, tokens: int, count: int, seed: int = 0) -> list[Asked]:
        """Texts of exactly so many tokens of content, which begin unlike any before.

        Raises InputError where too few can be cut so.
        """
        order = random.Random(f"{seed} {tokens}")
        found: list[Asked] = []
        texts = [each.text for each in built_in("gate").items]
        for _ in range(20 * count):
            if len(found) == count:
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
            asked = self.about(whole[: encoding.offsets[min(tokens, len(encoding.offsets)) - 1][1]])
            beginning = asked.question["text"][:_BEGINNING]
            if asked.content == tokens and beginning not in self._begun:
                self._begun.add(beginning)
                found.append(asked)
        if len(found) < count:
            raise InputError(f"found no {count} texts of {tokens} tokens by this tokenizer; choose other --lengths")
        return found

    def judged(self, count: int, longest: int = 256) -> list[Asked]:
        """Built-in texts, spread evenly over what is there: for verdicts, not for time."""
        found = (self.about(text.text) for text in built_in("gate").items)
        short = [each for each in found if each.content <= longest]
        kept = min(count, len(short))
        return [short[number * len(short) // kept] for number in range(kept)]

    def about(self, text: str) -> Asked:
        """The question that a text is. In mode response its second half is the reply."""
        given: dict[Role, str] = {"prompt": text}
        if self.mode == "response":
            given = {"prompt": text[: len(text) // 2], "response": text[len(text) // 2 :]}
        request = self._planner.plan(self._planner.span(given))
        root = self._tree.slots[self._tree.roots[0]]
        tree = np.array(self._tree.tokens)[request.sees[root.node]].tolist()
        span = request.tokens[0, : request.tokens.size - len(self._tree.tokens)].tolist()
        columns = tuple(choice.column for choice in root.choices)
        return Asked(
            question={
                "text": given["prompt"],
                "response": given.get("response"),
                "ids": [self._prefix[column] for column in request.chain] + span + tree,
                "labels": [self._columns[column] for column in columns],
            },
            request=request,
            content=sum(len(self._content.ids(each)) for each in given.values()),
            columns=columns,
        )
