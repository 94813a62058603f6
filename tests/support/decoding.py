"""The reference of a guard's answer: greedy decoding by transformers, token by token, inside the grammar."""

from dataclasses import dataclass
from typing import Any

import torch

from guardpass import Guard, Verdict
from guardpass.format.manifest import Mode

from .published import Case, Fields


@dataclass(frozen=True)
class Subject:
    """A tiny checkpoint of a published guard, in transformers and as a guard."""

    case: Case
    model: torch.nn.Module
    tokenizer: Any
    guard: Guard


@dataclass(frozen=True)
class Decoded:
    """What the reference came to: fields, and for each decision the logits of the tokens it had."""

    fields: Fields
    scores: tuple[dict[int, float], ...]

    @property
    def nearest(self) -> float:
        """The smallest lead of a chosen token."""
        ordered = (sorted(each.values()) for each in self.scores)
        return min(each[-1] - each[-2] for each in ordered)


@torch.no_grad()
def _decode(subject: Subject, prompt: str, ids: list[int], raw: bool, mode: Mode) -> Decoded:
    """Greedy, token by token, among the tokens that some answer of the grammar goes on with."""
    answers = subject.case.answers(mode)
    split = {
        answer: subject.tokenizer(prompt + answer, add_special_tokens=raw)["input_ids"][len(ids) :]
        for answer in answers
    }
    written: list[int] = []
    scores: list[dict[int, float]] = []
    while len(split) > 1:
        allowed = {answer[len(written)] for answer in split.values()}
        if len(allowed) > 1:
            logits = subject.model(torch.tensor([ids + written])).logits[0, -1]
            scores.append({token: float(logits[token]) for token in allowed})
            written.append(max(scores[-1], key=scores[-1].__getitem__))
        else:
            written += allowed
        split = {answer: tokens for answer, tokens in split.items() if tokens[: len(written)] == written}
    (answer,) = split
    return Decoded(answers[answer], tuple(scores))


def reference(subject: Subject, text: str, response: str | None) -> dict[str, Decoded]:
    """By policy, or by "" where there are none."""
    mode: Mode = "prompt" if response is None else "response"
    raw = subject.case.row.modes[mode].raw
    prompts = subject.case.prompts(subject.tokenizer, text, response)
    return {policy or "": _decode(subject, *each, raw, mode) for policy, each in prompts.items()}


def fields(verdict: Verdict) -> Fields:
    return {name: field.label for name, field in verdict.fields.items() if field}


def expected_fields(decoded: dict[str, Decoded]) -> Fields:
    """Under a policy's name its one answer; else the answer's own fields."""
    return {policy or field: value for policy, each in decoded.items() for field, value in each.fields.items()}
