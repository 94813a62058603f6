"""One pass over a verdict tree against step-by-step greedy decoding with transformers, for every published guard."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from guardpass import Guard, Verdict
from guardpass.export import export_guard

from ..support.decoding import Decoded, Subject, expected_fields, fields, reference
from ..support.helpers import texts
from ..support.profiles import scaled
from ..support.published import CASES, Case, Fields
from ..support.twins import Twins

_SEEDS, _TEXTS = 3, scaled(100, least=34)
_TIE = 1e-3  # logits nearer than this may go either way in float32


def _subject(case: Case, twins: Twins, seed: int) -> Subject:
    twin = twins.checkpoint(case.twin, seed)
    model = AutoModelForCausalLM.from_pretrained(twin, dtype=torch.float32)
    guard = twins.guard(case.twin, seed=seed, family=case.family, date=case.date)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(twin)
    return Subject(case, model.eval(), tokenizer, Guard.load(guard, normalize="off"))


@pytest.mark.parametrize("case", CASES[1:], ids=lambda case: f"{case.twin}, {case.family}")
def test_one_pass_equals_greedy_decoding(case: Case, twins: Twins, capsys: pytest.CaptureFixture[str]) -> None:
    ties, compared = 0, 0
    seen: dict[str, set[str]] = {}
    for seed in range(_SEEDS):
        subject = _subject(case, twins, seed)
        both = "response" in case.row.modes
        replies = texts(_TEXTS, seed=9 + seed, longest=12)
        for number, text in enumerate(texts(_TEXTS, seed=seed, longest=12)):
            response = replies[number] if both and number % 2 else None
            decoded = reference(subject, text, response)
            verdict = subject.guard.check(text, response)
            for name, label in (found := fields(verdict)).items():
                seen.setdefault(name, set()).add(label)
            compared += 1
            if found != expected_fields(decoded):
                nearest = min(each.nearest for each in decoded.values())
                assert nearest < _TIE, (text, response, found, expected_fields(decoded), nearest)
                ties += 1
                continue
            _compare_scores(subject, verdict, decoded)
    with capsys.disabled():
        print(f" [{compared} texts, {ties} near ties] ", end="")
    assert ties <= compared // 100
    assert max(map(len, seen.values())) > 1, "random weights that always give one label prove little"


def _compare_scores(subject: Subject, verdict: Verdict, decoded: dict[str, Decoded]) -> None:
    """The deciding scores: a softmax over the very logits that the decode chose by."""
    vocabulary = subject.tokenizer.get_vocab()
    for policy, each in decoded.items():
        first = each.scores[0]
        field = verdict.fields[policy or next(iter(each.fields))]
        assert field
        values = np.array(list(first.values()))
        weights = dict(zip(first, np.exp(values - values.max()), strict=True))
        unsafe = {vocabulary[token] for token in _UNSAFE if token in vocabulary} & first.keys()
        assert field.score == pytest.approx(sum(weights[id] for id in unsafe) / sum(weights.values()), abs=1e-3)
        safe = max(first[id] for id in first.keys() - unsafe)
        assert field.margin == pytest.approx(safe - max(first[id] for id in unsafe), abs=2e-3)


# As the vocabularies spell the unsafe answers' first tokens.
_UNSAFE = ("Ġyes", "▁yes", "Yes", "unsafe", "ĠUnsafe", "ĠCont", "<UNSAFE>")


def _train(subject: Subject, steps: int) -> None:
    """Teach the checkpoint to answer in its grammar, so that nothing has to be held to it."""
    rng, answers = random.Random(0), subject.case.answers("response")
    optimizer = torch.optim.AdamW(subject.model.parameters(), lr=2e-3)
    for _ in range(steps):
        rows: list[tuple[list[int], list[int]]] = []
        for text, response in (rng.sample(_WORDS, 2) for _ in range(16)):
            ((prompt, ids),) = subject.case.prompts(subject.tokenizer, text, response).values()
            answer = next(a for a, f in answers.items() if f == _said(text, response)) + "<|eot_id|>"
            rows.append((ids, subject.tokenizer(prompt + answer, add_special_tokens=False)["input_ids"][len(ids) :]))
        longest = max(len(ids) + len(answer) for ids, answer in rows)
        tokens = torch.tensor([[*ids, *answer, *[0] * (longest - len(ids) - len(answer))] for ids, answer in rows])
        wanted = torch.full_like(tokens, -100)
        for row, (ids, answer) in enumerate(rows):
            wanted[row, len(ids) : len(ids) + len(answer)] = torch.tensor(answer)
        optimizer.zero_grad()
        subject.model(tokens, labels=wanted).loss.backward()
        optimizer.step()


_WORDS = ["훔치는 방법", "안녕", "오늘 날씨", "stop that", "a bomb", "a cake", "hello", "값"]


def _said(text: str, response: str) -> Fields:
    yes = {True: "yes", False: "no"}
    harmful = "bomb" in response
    return {
        "harmful_request": yes["훔치는" in text],
        "response_refusal": yes["stop" in response],
        "harmful_response": yes[harmful],
    }


def test_one_pass_equals_free_greedy_decoding(twins: Twins, tmp_path: Path) -> None:
    """A checkpoint that learned its grammar: transformers' own generate, free to write what it likes."""
    case = next(case for case in CASES if case.family == "wildguard-ko")
    torch.manual_seed(0)
    subject = _subject(case, twins, 0)
    _train(subject, 120)
    subject.model.save_pretrained(tmp_path / "twin")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(twins.checkpoint(case.twin) / name, tmp_path / "twin")
    export_guard(tmp_path / "twin", tmp_path / "guard", family=case.family, date=case.date, quant="fp32")
    guard = Guard.load(tmp_path / "guard", normalize="off")
    answers = {f"{answer}<|eot_id|>": fields for answer, fields in case.answers("response").items()}
    inside, seen = 0, set()
    rng = random.Random(1)
    for _ in range(60):
        text, response = rng.sample(_WORDS, 2)
        ((_, ids),) = case.prompts(subject.tokenizer, text, response).values()
        written = subject.model.generate(
            torch.tensor([ids]),
            max_new_tokens=20,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=subject.tokenizer.eos_token_id,
        )[0, len(ids) :]
        written_fields = answers.get(subject.tokenizer.decode(written, skip_special_tokens=False))
        if written_fields:
            inside += 1
            assert fields(guard.check(text, response)) == written_fields
            seen.add(tuple(written_fields.values()))
    assert inside >= 50, "the checkpoint was to stay in its grammar"
    assert len(seen) > 2, "one answer to everything proves little"
