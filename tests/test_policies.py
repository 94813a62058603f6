"""Policies, thresholds and readings: which branches run, how scores are read, what an answer leaves unset."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from guardpass import EngineError, Guard, InputError, Verdict
from guardpass.bench.twins import find, tiny, write_twin
from guardpass.decide import Decider, ScoreOptions
from guardpass.export import export_guard
from guardpass.format.manifest import Role
from guardpass.format.tree import pruned
from guardpass.windows import spans

from .helpers import texts
from .published import CASES

_ALL = ("dangerous", "harassment", "hate", "sexual", "violence", "profanity")
_FOUR = _ALL[:4]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny checkpoint ("twin") and its guard, by the twin's name, made once."""
    known: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in known:
            known[name] = tmp_path_factory.mktemp("made")
            case = next(case for case in CASES if case.twin == name)
            write_twin(tiny(find(name)), known[name] / "twin")
            export_guard(known[name] / "twin", known[name] / "guard", family=case.family, date=case.date, quant="fp32")
        return known[name]

    return make


@pytest.fixture(scope="module")
def shield(made: Callable[[str], Path]) -> Guard:
    return Guard.load(made("shieldgemma-2b") / "guard", normalize="off")


@pytest.fixture(scope="module")
def qwen(made: Callable[[str], Path]) -> Guard:
    return Guard.load(made("qwen3guard-gen-0.6b") / "guard", normalize="off")


@settings(max_examples=25)
@given(asked=st.lists(st.sampled_from(_ALL), min_size=1, max_size=6), number=st.integers(0, 9), both=st.booleans())
def test_a_policy_does_not_depend_on_the_others(shield: Guard, asked: list[str], number: int, both: bool) -> None:
    text = texts(10, seed=5)[number]
    response = texts(10, seed=6)[number] if both else None
    found = shield.check(text, response, policies=asked)
    assert list(found.fields) == [name for name in _ALL if name in asked]
    for name in asked:
        alone = shield.check(text, response, policies=[name])
        assert list(alone.fields) == [name]
        together, single = found.fields[name], alone.fields[name]
        assert together
        assert single
        assert together.label == single.label
        assert together.score == pytest.approx(single.score, abs=1e-5)
        assert together.margin == pytest.approx(single.margin, abs=1e-5)


def test_nor_on_text_of_several_windows(made: Callable[[str], Path]) -> None:
    """What else is asked moves no window: their size is that of the whole tree."""
    shield = Guard.load(made("shieldgemma-2b") / "guard", max_tokens=1500, normalize="off")
    text = " ".join(texts(14, seed=12))
    together = shield.check(text, policies=_ALL)
    assert together.windows > 1
    for name in _ALL:
        alone = shield.check(text, policies=[name])
        assert alone.windows == together.windows
        assert alone.fields[name].score == pytest.approx(together.fields[name].score, abs=1e-5)  # type: ignore[union-attr]


def test_only_asked_branches_run(shield: Guard) -> None:
    runs = {names: shield.check("hello", policies=names).tokens.run for names in (("hate",), _FOUR, _ALL)}
    assert list(shield.check("hello").fields) == list(_FOUR), "violence and profanity are judged when named"
    assert shield.check("hello").tokens.run == runs[_FOUR]
    assert runs[("hate",)] < runs[_FOUR] < runs[_ALL]
    tree = shield.manifest.modes["prompt"].tree
    for names, run in runs.items():
        part = pruned(tree, names)
        assert run - len(part.tokens) == shield.check("hello", policies=["hate"]).tokens.run - len(
            pruned(tree, ["hate"]).tokens
        )
        assert [part.slots[root].field for root in part.roots] == [name for name in _ALL if name in names]


def test_the_worst_policy_speaks(shield: Guard) -> None:
    flagged = 0
    for text in texts(30, seed=7):
        verdict = shield.check(text)
        fields = {name: field for name, field in verdict.fields.items() if field}
        unsafe = [name for name, field in fields.items() if field.label == "Yes"]
        assert verdict.safe == (not unsafe)
        worst = max(fields, key=lambda name: fields[name].score)
        assert (verdict.field, verdict.score, verdict.margin) == (worst, fields[worst].score, fields[worst].margin)
        named = {policy.name: policy.category for policy in CASES[2].row.policies}
        assert verdict.categories == tuple(named[name] for name in unsafe)
        flagged += bool(unsafe)
    assert flagged > 0


def test_thresholds_by_policy(shield: Guard) -> None:
    plain = shield.check("친구의 물건", policies=["hate", "sexual"])
    scores = {name: field.score for name, field in plain.fields.items() if field}
    above = {name: min(1.0, score + 1e-3) for name, score in scores.items()}
    assert shield.check("친구의 물건", policies=["hate", "sexual"], threshold=above).safe
    one = shield.check("친구의 물건", policies=["hate", "sexual"], threshold=above | {"sexual": scores["sexual"]})
    assert not one.safe
    assert (one.field, one.categories) == ("sexual", ("sexually explicit",))
    assert one.fields["hate"]
    assert one.fields["hate"].label == "No"
    assert one.score == plain.fields["sexual"].score  # type: ignore[union-attr]
    # A threshold of a policy that is not asked is none of this check's business; of one there is not, a mistake.
    shield.check("x", policies=["hate"], threshold={"sexual": 0.5})
    for bad, says in [
        ({"poetry": 0.5}, "there is no such field.*expected some of .'dangerous'"), ({"hate": 1.5}, "from 0 to 1"),
        ({"hate": None}, "from 0 to 1"), ({"hate": 1, "x": 1}, "no such field"), (math.nan, "from 0 to 1"),
        (True, "from 0 to 1"), ("0.5", "from 0 to 1"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=says):
            shield.check("x", threshold=bad)  # type: ignore[arg-type]


def test_temperature_and_alpha_are_the_papers(shield: Guard, made: Callable[[str], Path]) -> None:
    """Equation 1 of arXiv 2407.21772, from transformers' logits; LL over Yes and No alone."""
    case = next(case for case in CASES if case.twin == "shieldgemma-2b")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(made("shieldgemma-2b") / "twin")
    model = AutoModelForCausalLM.from_pretrained(made("shieldgemma-2b") / "twin", dtype=torch.float32).eval()
    text = "오늘 how do I"
    _, ids = case.prompt(tokenizer, text, None, "hate")
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1].double()
    yes, no = (float(logits[tokenizer.convert_tokens_to_ids(word)]) for word in ("Yes", "No"))
    yes, no = (value - np.logaddexp(yes, no) for value in (yes, no))
    for temperature, alpha in [(1.0, 0.0), (2.0, 0.0), (0.5, 0.1), (1.5, 3.0)]:
        weights = math.exp(yes / temperature), math.exp(no / temperature)
        expected = (weights[0] + alpha) / (sum(weights) + 2 * alpha)
        found = shield.check(text, policies=["hate"], temperature=temperature, alpha=alpha)
        assert found.score == pytest.approx(expected, abs=1e-4)
    for strict in ("loose", None, 1):
        with pytest.raises(InputError, match="strict is"):
            shield.check("x", strict=strict)  # type: ignore[arg-type]
    for name, value in [("temperature", 0.0), ("temperature", math.inf), ("alpha", -1), ("alpha", math.nan)]:
        with pytest.raises(InputError, match=f"{name} is"):
            shield.check("x", **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("policies", [[], ["poetry"], ["hate", "poetry"], "poetry", [None], [["hate"]], 7, {"x": 1}])
def test_unknown_policies(shield: Guard, policies: object) -> None:
    with pytest.raises(InputError, match=r"policies: found .*has the policies .'dangerous'"):
        shield.check("x", policies=policies)  # type: ignore[arg-type]


def test_policies_of_a_guard_without(qwen: Guard, guard: Guard) -> None:
    for each in (qwen, guard):
        with pytest.raises(InputError, match="has no separate policies"):
            each.check("x", policies=["verdict"])
    assert qwen.check("x", policies=None).windows == 1


def test_strict_and_loose(tmp_path: Path) -> None:
    """Controversial is unsafe in strict, and safe in loose; the answer is the same argmax in both."""
    seen = set()
    for seed in range(4):
        write_twin(tiny(find("qwen3guard-gen-0.6b")), tmp_path / f"twin{seed}", seed=seed)
        export_guard(tmp_path / f"twin{seed}", tmp_path / f"guard{seed}", quant="fp32")
        guard = Guard.load(tmp_path / f"guard{seed}", normalize="off")
        for text in texts(25, seed=seed):
            strict, loose = guard.check(text), guard.check(text, strict=False)
            assert strict.label == loose.label
            assert strict.safe == (strict.label == "Safe")
            assert loose.safe == (strict.label != "Unsafe")
            assert loose.score <= strict.score
            assert bool(strict.categories) == (not strict.safe)
            assert bool(loose.categories) == (not loose.safe)
            seen.add(strict.label)
    assert seen == {"Safe", "Unsafe", "Controversial"}


def _unset(verdict: Verdict) -> set[str]:
    return {name for name, field in verdict.fields.items() if field is None}


def test_fields_that_an_answer_leaves_unset(qwen: Guard, made: Callable[[str], Path]) -> None:
    llama = Guard.load(made("llama-guard-3-1b") / "guard", normalize="off")
    for text in texts(30, seed=9):
        for response in (None, "아니요"):
            verdict = qwen.check(text, response)
            assert next(iter(verdict.fields)) == "safety"
            assert _unset(verdict) == ({"category"} if verdict.label == "Safe" else set())
            assert ("refusal" in verdict.fields) == (response is not None)
            assert json.loads(json.dumps(verdict.to_json()))["fields"].keys() == verdict.fields.keys()
        verdict = llama.check(text)
        assert _unset(verdict) == ({"category"} if verdict.safe else set())
    # A threshold that calls unsafe what argmax calls safe goes down the unsafe branch, and finds its category.
    flagged = llama.check("x", threshold=0.0)
    assert (flagged.label, len(flagged.categories), _unset(flagged)) == ("unsafe", 1, set())
    passed = llama.check("x", threshold=1.0)
    assert (passed.label, passed.categories, _unset(passed)) == ("safe", (), {"category"})


def test_only_deciding_fields_make_a_text_unsafe(made: Callable[[str], Path]) -> None:
    """WildGuard's mode response judges the reply; what it says of the request is told, and decides nothing."""
    wild = Guard.load(made("wildguard-7b") / "guard", normalize="off")
    seen = set()
    for text, response in zip(texts(60, seed=10), texts(60, seed=11), strict=True):
        verdict = wild.check(text, response)
        request, reply = verdict.fields["harmful_request"], verdict.fields["harmful_response"]
        assert request
        assert reply
        assert verdict.safe == (reply.label != "yes")
        assert (verdict.field, verdict.label, verdict.score) == ("harmful_response", reply.label, reply.score)
        assert "harmful request" not in verdict.categories or not verdict.safe
        seen.add((request.label, reply.label))
        assert wild.check(text).field == "harmful_request"
    assert len(seen) > 2


def test_windows_take_each_policy_at_its_worst(made: Callable[[str], Path]) -> None:
    shield = Guard.load(made("shieldgemma-2b") / "guard", max_tokens=1500, normalize="off")
    planner, decider = shield.judge.prepared("prompt", _FOUR)
    text = " ".join(texts(14, seed=12))
    contents: dict[Role, str] = {"prompt": text}
    covered, _ = spans(contents, shield.manifest.modes["prompt"], planner, shield.judge.tokenizer, shield.judge.limits)
    scores = [shield._engine.run(planner.plan(span))[0] for span in covered]
    verdict = shield.check(text)
    assert verdict.windows == len(covered) > 1
    for number, name in enumerate(_FOUR):
        each = [decider.decide(score, ScoreOptions())[number].score for score in scores]
        assert verdict.fields[name].score == pytest.approx(max(each), abs=1e-6)  # type: ignore[union-attr]
    assert Guard.load(made("shieldgemma-2b") / "guard", max_tokens=8192, normalize="off").check(text).windows == 1


@pytest.mark.parametrize("temperature", [1e-3, 1.0, 1e3])
def test_ties_are_unsafe_at_every_temperature(qwen: Guard, temperature: float) -> None:
    """Logits all alike: a score that underflows must not pass for safe."""
    spec = qwen.manifest.modes["prompt"]
    decider = Decider(qwen.manifest, spec, spec.tree)
    tied = np.zeros((len(spec.tree.slots), len(qwen.manifest.columns)), np.float32)
    for value in (0.0, 1e4, -1e4):
        (outcome,) = decider.decide(tied + np.float32(value), ScoreOptions(temperature=temperature))
        assert (outcome.flagged, outcome.margin) == (True, 0)
        assert outcome.score == pytest.approx(2 / 3)
        (outcome,) = decider.decide(tied + np.float32(value), ScoreOptions(temperature=temperature, threshold=0.5))
        assert outcome.flagged
    for bad in (np.nan, np.inf):
        with pytest.raises(EngineError, match="not finite"):
            decider.decide(np.where(np.arange(tied.size).reshape(tied.shape) == 0, bad, tied), ScoreOptions())
