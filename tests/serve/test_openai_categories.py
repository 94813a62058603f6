"""OpenAI's categories and scores of every published guard, against sums over all answers that it may give."""

from itertools import product

import numpy as np
import pytest

from guardpass import EngineError, Verdict
from guardpass.decide import ScoreOptions
from guardpass.export.families.schema import Family, decides
from guardpass.format.manifest import Mode
from guardpass.format.tree import UNSAFE
from guardpass.on_error import undecided
from guardpass.serve.moderations import CATEGORIES, result

from ..support.made_up import MadeUp, Scores, by_family, made_up
from ..support.published import EVERY, Case, Fields

_every = pytest.mark.parametrize("case", EVERY, ids=lambda case: case.family)


def _named(row: Family, mode: Mode, fields: Fields, policy: str | None, strict: bool = True) -> set[str]:
    """The OpenAI categories of an answer that is unsafe, by the family's row; of others, none."""
    answers = {(question.field, each.name): each for question in row.questions for each in question.answers}
    said = {field: answers[field, label] for field, label in fields.items()}
    deciding = decides(row, row.modes[mode])
    if not any(each.severity in UNSAFE[strict] for field, each in said.items() if field in deciding):
        return set()
    if policy is not None:
        return {each.openai for each in row.policies if each.name == policy and each.openai}
    return {each.openai for each in said.values() if each.openai}


def _probability(guard: MadeUp, mode: Mode, scores: Scores, fields: Fields, policy: str | None) -> float:
    """Of an answer, label by label: softmax over each slot that it passes."""
    tree, found = guard.tree(mode), 1.0
    slot: int | None = next(n for n in tree.roots if policy in (None, tree.slots[n].field))
    while slot is not None:
        field = tree.slots[slot].field
        label = fields["verdict" if policy else field]
        row = scores[slot, [choice.column for choice in tree.slots[slot].choices]].astype(np.float64)
        at = [label in guard.leads(tree, field, choice) for choice in tree.slots[slot].choices].index(True)
        found *= float(np.exp(row - row.max())[at] / np.exp(row - row.max()).sum())
        slot = tree.slots[slot].choices[at].next
    return found


def _expected(guard: MadeUp, mode: Mode, scores: Scores, strict: bool) -> dict[str, float]:
    found = dict.fromkeys(CATEGORIES, 0.0)
    for policy in guard.case.row.asked or (None,):
        sums = dict.fromkeys(CATEGORIES, 0.0)
        for fields in guard.case.answers(mode).values():
            for category in _named(guard.case.row, mode, fields, policy, strict):
                sums[category] += _probability(guard, mode, scores, fields, policy)
        found = {category: max(found[category], sums[category]) for category in CATEGORIES}
    return found


@_every
def test_a_score_is_the_probability_of_an_unsafe_answer_that_names_the_category(case: Case) -> None:
    """On any scores, strict and loose, whatever threshold makes the verdict safe or unsafe."""
    guard = made_up(case)
    for mode, seed, strict in product(guard.modes, range(3), (True, False)):
        scores = guard.scores(mode, seed)
        expected = _expected(guard, mode, scores, strict)
        for threshold in (None, 0.0, 1.0):
            verdict = guard.verdict(mode, scores, options=ScoreOptions(threshold, strict))
            assert result(guard.manifest, verdict)["category_scores"] == pytest.approx(expected, abs=1e-9)


@_every
def test_what_an_answer_names_is_true_scored_and_listed(case: Case) -> None:
    """Every answer that the guard may give; what has no category of OpenAI's is told."""
    guard, named = made_up(case), set()
    for mode in guard.modes:
        for policy in case.row.asked or (None,):
            for fields in case.answers(mode).values():
                scores = guard.answered(mode, fields, policy)
                found = result(guard.manifest, guard.verdict(mode, scores))
                expected = _named(case.row, mode, fields, policy)
                assert {category for category, yes in found["categories"].items() if yes} == expected
                assert all(found["category_scores"][category] > 0.4 for category in expected)
                assert not expected or found["flagged"]
                if found["flagged"]:
                    assert expected or found["guardpass"]["no_openai_category"]
                else:
                    assert not found["guardpass"]["no_openai_category"]
                named |= expected
    labels = {answer.openai for question in case.row.questions for answer in question.answers}
    asked = {policy.openai for policy in case.row.policies if policy.name in case.row.asked}
    assert named == {category for category in labels | asked if category}


def _two_fields(unsafe: float, code: str) -> tuple[MadeUp, Scores]:
    """Llama Guard that is unsafe with this probability, and then says the code with 0.9."""
    guard = by_family("llama-guard-3")
    tree = guard.tree("prompt")
    scores = np.zeros((len(tree.slots), len(guard.manifest.columns)), np.float32)
    for slot, label, probability in ((0, "unsafe", unsafe), (1, code, 0.9)):
        choices = tree.slots[slot].choices
        for choice in choices:
            chosen = label in guard.leads(tree, tree.slots[slot].field, choice)
            share = probability if chosen else (1 - probability) / (len(choices) - 1)
            scores[slot, choice.column] = np.log(share)
    return guard, scores


def test_a_safe_text_has_real_scores() -> None:
    guard, scores = _two_fields(0.3, "S10")
    found = result(guard.manifest, guard.verdict("prompt", scores))
    assert found["flagged"] is False
    assert not any(found["categories"].values())
    assert found["category_scores"]["hate"] == pytest.approx(0.27, abs=1e-6)
    # S1 and S9, of the 13 other codes, both are illicit/violent.
    assert found["category_scores"]["illicit/violent"] == pytest.approx(0.3 * 0.1 * 2 / 13, abs=1e-6)


def test_a_category_without_a_name_of_openais_is_told() -> None:
    for family, mode, fields, expected in (
        ("kanana-safeguard", "prompt", {"verdict": "UNSAFE-S7"}, ["misinformation"]),
        (
            "llama-guard-3-two-codes",
            "prompt",
            {"verdict": "unsafe", "category": "S10", "second_category": "S5"},
            ["defamation"],
        ),
        ("qwen3guard-gen", "prompt", {"safety": "Unsafe", "category": "Jailbreak"}, ["jailbreak"]),
        ("wildguard", "prompt", {"harmful_request": "yes"}, ["harmful request"]),
    ):
        guard = by_family(family)
        found = result(guard.manifest, guard.verdict(mode, guard.answered(mode, fields, None)))
        assert found["flagged"] is True
        assert found["guardpass"]["no_openai_category"] == expected


def test_of_several_windows_a_score_is_the_highest() -> None:
    guard, hate = _two_fields(0.9, "S10")
    _, sexual = _two_fields(0.8, "S12")
    found = result(guard.manifest, guard.verdict("prompt", sexual, hate))
    assert found["categories"] == {category: category == "hate" for category in CATEGORIES}  # of the worst window
    assert found["category_scores"]["hate"] == pytest.approx(0.81, abs=1e-6)
    assert found["category_scores"]["sexual"] > 0.72  # S3 too


@pytest.mark.parametrize("on_error", ["block", "allow"])
def test_what_was_not_judged_has_no_scores(on_error: str) -> None:
    guard = by_family("llama-guard-3")
    verdict: Verdict = undecided(EngineError("broken"), on_error, "prompt")  # type: ignore[arg-type]
    found = result(guard.manifest, verdict)
    assert found["flagged"] is (on_error == "block")
    assert not any(found["categories"].values())
    assert not any(found["category_scores"].values())
    assert found["guardpass"]["no_openai_category"] == (["UNDECIDED"] if on_error == "block" else [])
