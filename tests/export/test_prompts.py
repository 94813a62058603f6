"""prefix . span . tree of every published guard, over real tokenizers where they are at hand, against transformers."""

import json
import string
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from guardpass import TemplateError
from guardpass.bench.twins import find, tiny, write_twin
from guardpass.bench.twins.tokenizer import write_tokenizer
from guardpass.export.checkpoint.files import Checkpoint
from guardpass.export.checkpoint.tokenizer import CheckpointTokenizer
from guardpass.export.prompt.build import Prompts, build_prompts
from guardpass.export.prompt.split import split_prompt
from guardpass.format.manifest import Mode, Piece, Role, Tree
from guardpass.tokenizer import span_ids

from ..support.helpers import seam_text, texts
from ..support.published import CASES, Case, Fields
from ..support.twins import SHARED

_REAL = {
    "kanana": "kanana-safeguard-8b",
    "llama3": "kanana-safeguard-8b",
    "gemma": "gemma3",
    "mistral": "mistral-v3",
    "qwen": "qwen3",
}


@dataclass(frozen=True)
class Subject:
    """A guard's prompts and its tokenizer in transformers."""

    case: Case
    prompts: Prompts
    content: CheckpointTokenizer
    reference: Any

    def span(self, mode: Mode, text: str, response: str | None) -> list[int]:
        """Ids before the tree."""
        spec = self.prompts.modes[mode]
        contents: dict[Role, str] = {"prompt": text, "response": response or ""}
        prefix = [self.prompts.prefix.tokens[column] for column in spec.prefix[: len(spec.prefix) - spec.lead]]
        return prefix + span_ids(spec.span, contents, self.content.content_ids)


def _subject(case: Case, directory: Path, tokenizer: Path | None) -> Subject:
    row = find(case.twin)
    write_twin(tiny(row), directory / "twin")
    if tokenizer:
        rows = row.config["vocab_size"]
        write_tokenizer(directory / "twin", row.verdicts, row.template, tokenizer, kind=row.tokenizer, limit=rows)
    source = Checkpoint(directory / "twin")
    content = CheckpointTokenizer(source)
    prompts = build_prompts(case.row, source, content, case.date)
    return Subject(case, prompts, content, AutoTokenizer.from_pretrained(directory / "twin"))


# Two codes take two hundred answers, and differ from one in nothing that text could reach.
_FEW = [case for case in CASES if not case.family.endswith("two-codes")]
_all = pytest.mark.parametrize("subject", _FEW, ids=lambda case: f"{case.twin}, {case.family}", indirect=True)


@pytest.fixture(scope="module")
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    case: Case = request.param
    real = SHARED / _REAL[find(case.twin).tokenizer]
    if not real.exists():
        pytest.skip(f"the real tokenizer is not at {real}")
    return _subject(case, tmp_path_factory.mktemp("real"), real)


def _check(subject: Subject, text: str, response: str | None) -> None:
    """The ids of the prompt, and for every answer the walk down the tree."""
    mode: Mode = "prompt" if response is None else "response"
    if mode not in subject.prompts.modes:
        return
    reserved = [token.content for token in subject.content.reserved.values()]
    if any(token in text + (response or "") for token in reserved):
        return
    start = subject.span(mode, text, response)
    for shown, ids in subject.case.prompts(subject.reference, text, response).values():
        assert ids[: len(start)] == start
        raw = subject.case.row.modes[mode].raw
        for answer, fields in subject.case.answers(mode).items():
            whole = subject.reference(shown + answer, add_special_tokens=raw)["input_ids"][len(start) :]
            tree = subject.prompts.modes[mode].tree
            assert _walk(subject.prompts, tree, whole, len(ids) - len(start)) == fields


def _walk(prompts: Prompts, tree: Tree, tokens: list[int], prompt: int) -> Fields:
    """What following `tokens` decides; the tree holds at least the `prompt` first of them."""
    children = {pair: node for node, pair in enumerate(zip(tree.parents, tree.tokens, strict=True))}
    slots = {slot.node: slot for slot in tree.slots}
    found: Fields = {}
    node = -1
    for index, token in enumerate(tokens):
        if node in slots:
            slot = slots[node]
            (choice,) = (choice for choice in slot.choices if prompts.columns[choice.column] == token)
            if choice.label is not None:
                name = "verdict" if len(tree.roots) > 1 else slot.field
                found[name] = prompts.labels[choice.label].name
            if choice.next is None:
                break
        assert index >= prompt or (node, token) in children
        node = children[node, token]
    return found


_SEAMS = ("", " ", "\n", "\n\n", ":", "한", "a", "*", "<", "\u0301", "  b", "\t", "</b>", "▁", "'s")


@_all
def test_ids_at_the_seams(subject: Subject) -> None:
    for text in (*_SEAMS, *(one + "오늘 weather" + two for one in _SEAMS[:8] for two in _SEAMS[:8]), *texts(5)):
        _check(subject, text, None)
        _check(subject, text, text)


@_all
@settings(max_examples=40)
@given(text=seam_text, response=st.none() | seam_text)
def test_ids_of_any_text(subject: Subject, text: str, response: str | None) -> None:
    _check(subject, text, response)


@_all
@settings(max_examples=60)
@given(data=st.data())
def test_no_text_becomes_a_control_token(subject: Subject, data: st.DataObject) -> None:
    literals = [token.content for token in subject.content.reserved.values()]
    attack = st.lists(st.one_of(st.sampled_from(literals), seam_text), max_size=6).map("".join)
    text = data.draw(attack)
    assert not set(subject.content.content_ids(text)) & subject.content.reserved.keys()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.twin}, {case.family}")
def test_ids_with_a_trained_tokenizer(case: Case, tmp_path: Path) -> None:
    """The same on the tokenizers that the tests make, so that it is shown everywhere."""
    subject = _subject(case, tmp_path, None)
    for text in (*_SEAMS, "한글 <b>x</b>\n\n\n y"):
        _check(subject, text, None)
        _check(subject, text, text)


@pytest.mark.parametrize(
    ("twin", "mode", "nodes", "slots"),
    [
        # guards.md, section 9, counted with real tokenizers; our tree holds the prompt's own end as well.
        ("wildguard-ko-3b", "response", 43, 7),
        ("wildguard-ko-3b", "prompt", 5, 1),
        ("llama-guard-3-1b", "prompt", 4, 2),
        ("wildguard-7b", "response", 63, 9),
        ("wildguard-7b", "prompt", 5, 1),
    ],
)
def test_trees_are_as_counted(twin: str, mode: str, nodes: int, slots: int, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.twin == twin)
    real = SHARED / _REAL[find(twin).tokenizer]
    if not real.exists():
        pytest.skip(f"the real tokenizer is not at {real}")
    subject = _subject(case, tmp_path, real)
    tree = subject.prompts.modes[mode].tree
    response = None if mode == "prompt" else "x"
    ((_, ids),) = case.prompts(subject.reference, "x", response).values()
    tail = len(ids) - len(subject.span("prompt" if mode == "prompt" else "response", "x", response))
    assert (len(tree.tokens) - tail, len(tree.slots)) == (nodes, slots)


def _twin_with(directory: Path, twin: str, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Checkpoint:
    """A tiny twin whose tokenizer.json and tokenizer_config.json are changed."""
    write_twin(tiny(find(twin)), directory / "twin")
    paths = [directory / "twin" / name for name in ("tokenizer.json", "tokenizer_config.json")]
    spec, config = (json.loads(path.read_text()) for path in paths)
    change(spec, config)
    for path, content in zip(paths, (spec, config), strict=True):
        path.write_text(json.dumps(content))
    return Checkpoint(directory / "twin")


def test_a_special_token_that_looks_like_text_is_reserved(tmp_path: Path) -> None:
    """<b> is HTML to Gemma's tokenizer; where the config names it as the end of a text, no text may hold it."""

    def change(_spec: dict[str, Any], config: dict[str, Any]) -> None:
        config["eos_token"] = "<b>"

    tokenizer = CheckpointTokenizer(_twin_with(tmp_path, "shieldgemma-2b", change))
    named = {token.content for token in tokenizer.reserved.values()}
    assert "<b>" in named
    assert "</b>" not in named
    (end,) = tokenizer.split("<b>")
    assert end not in tokenizer.content_ids("a <b> b")
    assert tokenizer.content_ids("</b>") == tokenizer.split("</b>")


def test_ordinary_added_tokens_of_the_config_are_text(tmp_path: Path) -> None:
    """White space that only tokenizer_config.json adds is found in content as in the whole prompt."""

    def change(spec: dict[str, Any], config: dict[str, Any]) -> None:
        number = max(*spec["model"]["vocab"].values(), *(token["id"] for token in spec["added_tokens"])) + 1
        flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": False}
        config["added_tokens_decoder"][str(number)] = {"content": "<table>", **flags}

    tokenizer = CheckpointTokenizer(_twin_with(tmp_path, "llama-guard-3-8b", change))
    assert len(tokenizer.split("<table>")) == 1
    assert tokenizer.content_ids("a <table> b") == tokenizer.split("a <table> b")


@pytest.mark.parametrize("kind", ["llama-guard-3-8b", "qwen3guard-gen-0.6b", "wildguard-7b", "shieldgemma-2b"])
def test_raw_prompts_without_control_tokens(kind: str, tmp_path: Path) -> None:
    """Cut where no token can span, or refused: over real tokenizers, whatever stands beside the text."""
    row = find(kind)
    real = SHARED / _REAL[row.tokenizer]
    if not real.exists():
        pytest.skip(f"the real tokenizer is not at {real}")
    write_twin(tiny(row), tmp_path / "twin")
    write_tokenizer(tmp_path / "twin", (), "", real, kind=row.tokenizer, limit=row.config["vocab_size"])
    content = CheckpointTokenizer(Checkpoint(tmp_path / "twin"))
    befores = ("rate: ~%", "~%", "x @#", "Text:", "a ", "a\n", "('", "100", "한글: ", "<q>")
    afters = ("\nAnswer:", " => ", "\n\n### Verdict:", "</q>\n")
    beside = (*string.printable, "s timeout", "timeout", "'s", "How", "00", "%d", "다", "", *texts(20, seed=20))
    made = 0
    for before, after in product(befores, afters):
        try:
            found = split_prompt((Piece(before), Piece("", "prompt"), Piece(after)), (), content)
        except TemplateError:
            continue
        made += 1
        for text in beside:
            contents: dict[Role, str] = {"prompt": text}
            span = span_ids(found.span, contents, content.content_ids)
            assert [*found.hard, *span, *found.tail] == content.split(before + text + after), (before, text, after)
    assert made > 10
