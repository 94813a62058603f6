"""The demo guard: it classifies wording it never saw, int8 says what fp32 says, and its sets are what they claim."""

import pytest
from transformers import AutoTokenizer

from guardpass import Guard
from guardpass.bench.demo.data import blind_set, held_out_set, training_set
from guardpass.bench.demo.overlap import shared_wording
from guardpass.bench.demo.run import CHECKPOINT, SENTENCES, demo_guard, evaluate

from .helpers import ids, template_ids


def test_held_out_accuracy_and_agreement() -> None:
    found = evaluate("int8", held_out_set())
    assert found.binary >= 0.95
    assert found.same >= 0.99


def test_int4_still_classifies() -> None:
    assert evaluate("int4", held_out_set()).same >= 0.95


def test_held_out_wording_does_not_occur_in_training() -> None:
    """On a slice of the training set; `python -m guardpass.bench.demo.overlap` proves it for all of it."""
    assert shared_wording(training_set(5000), held_out_set()) == []


@pytest.mark.parametrize("examples", [held_out_set(), blind_set()], ids=["held-out", "blind"])
def test_the_sets_are_balanced(examples: list) -> None:
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
