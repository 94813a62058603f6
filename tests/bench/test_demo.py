"""The demo guard: it classifies wording it never saw, int8 says what fp32 says, and its sets are what they claim."""

import re

import pytest
from transformers import AutoTokenizer

from guardpass import Guard
from guardpass.bench.demo.data import Example, blind_set, grammar_set, held_out_set, natural_set
from guardpass.bench.demo.fidelity import fidelity
from guardpass.bench.demo.run import CHECKPOINT, SENTENCES, demo_guard

from ..support.helpers import ids, template_ids


def test_int8_classifies_and_agrees_with_fp32() -> None:
    held_out, blind = fidelity("int8")
    assert held_out.binary >= 0.95
    assert held_out.same >= 0.99
    assert blind.same >= 0.99


def test_int4_says_what_fp32_says_almost_always() -> None:
    assert all(found.same >= 0.95 for found in fidelity("int4"))


def test_no_held_out_wording_occurs_in_training() -> None:
    """Five words of English or four of Korean in a row; `python -m guardpass.bench.demo.overlap` looks at all of it."""

    def runs(examples: list[Example]) -> set[str]:
        found = set()
        for example in examples:
            for turn in (example.user, example.assistant):
                words = re.sub(r"[^\w\s]", "", turn.lower()).split()
                size = 5 if example.lang == "en" else 4
                found |= {" ".join(words[at : at + size]) for at in range(len(words) - size + 1)}
        return found

    assert not runs(grammar_set(5000) + natural_set()) & runs(held_out_set() + blind_set())


@pytest.mark.parametrize("examples", [held_out_set(), blind_set()], ids=["held-out", "blind"])
def test_the_sets_are_balanced(examples: list[Example]) -> None:
    assert 0.4 < sum(example.label == "<SAFE>" for example in examples) / len(examples) < 0.6
    assert 0.4 < sum(example.lang == "ko" for example in examples) / len(examples) < 0.6
    assert {example.mode for example in examples} == {"prompt", "response"}
    assert len({example.label for example in examples}) == 8


def test_ids_equal_the_template() -> None:
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    with demo_guard("int8") as guard:
        assert isinstance(guard, Guard)
        for text, response in SENTENCES:
            assert ids(guard, text, response) == template_ids(tokenizer, text, response)


def test_the_checkpoint_is_small() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) < 8e6
