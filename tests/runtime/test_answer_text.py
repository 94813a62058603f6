"""A verdict as text, read back by the parsers that cards publish and that libraries bring, for every family."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from guardpass import EngineError, InputError
from guardpass.answer_text import answer_ids
from guardpass.decide import ScoreOptions
from guardpass.export import FAMILIES, Answer, Family, Message, Prompt, Question
from guardpass.export.families.grammar import parse
from guardpass.format.manifest import Mode
from guardpass.on_error import undecided
from guardpass.serve.errors import NotFound
from guardpass.serve.styles import safe_unsafe, style_of

from ..support.made_up import by_family, made_up
from ..support.parsers import CARDS, LIBRARIES, llama_guard
from ..support.published import EVERY, Case, Fields

SERVICES = Path(__file__).parents[2] / "docs" / "services.md"
_every = pytest.mark.parametrize("case", EVERY, ids=lambda case: case.family)


def test_every_family_has_a_case_and_its_cards_parser() -> None:
    names = {row.name for row in FAMILIES}
    assert {case.family for case in EVERY} == names == CARDS.keys()


def _expected(case: Case, mode: Mode, fields: Fields) -> Fields:
    """What the card's parser finds: WildGuard answers all lines, and no second code is no word."""
    if case.family == "wildguard" and mode == "prompt":
        return fields | {"response_refusal": "n/a", "harmful_response": "n/a"}
    return {field: label for field, label in fields.items() if label != "none"}


@_every
def test_the_cards_parser_reads_the_verdict(case: Case) -> None:
    """Every answer of every mode, in the tokens that transformers has for it, decoded as transformers does."""
    guard = made_up(case)
    for mode in guard.modes:
        raw = case.row.modes[mode].raw
        shown, ids = next(iter(case.prompts(guard.reference, "x", "y" if mode == "response" else None).values()))
        for answer, fields, verdict in guard.every_answer(mode):
            text = guard.text(verdict)
            assert CARDS[case.family](text) == _expected(case, mode, fields)
            written = guard.reference(shown + answer, add_special_tokens=raw)["input_ids"][len(ids) :]
            assert text == guard.reference.decode(written, skip_special_tokens=True)
            stopped = written[-1] == guard.reference.eos_token_id
            assert answer_ids(guard.manifest, verdict) == written[: len(written) - stopped]
            labels = {name: field.label for name, field in verdict.fields.items() if field}
            assert fields.items() <= labels.items() or case.row.policies


def test_a_verdict_that_no_guard_gave_has_no_text() -> None:
    with pytest.raises(InputError, match="no answer"):
        answer_ids(by_family("qwen3guard-gen").manifest, undecided(EngineError("broken"), "block", "prompt"))


@dataclass(frozen=True)
class _Own(Case):
    """A guard of a user's own."""

    answer: str = ""
    asked: tuple[Question, ...] = (
        Question("verdict", (Answer("괜찮음"), Answer("위험", "unsafe"))),
        Question("kind", (Answer("사기 행위"), Answer("사칭"), Answer(" 폭력", category="violence"))),
    )

    @property
    def row(self) -> Family:
        message = Message("user", "<q>{prompt}</q>\n\n### Verdict:\n")
        return Family("own", {"prompt": Prompt((message,), self.answer, raw=True)}, self.asked)


@pytest.mark.parametrize("twin", ["llama-guard-3-8b", "shieldgemma-2b", "wildguard-7b"])
@pytest.mark.parametrize(
    "answer",
    [
        '{{"판정": "{괜찮음|위험", "종류": "{kind}}"}}',  # text behind the last slot
        "판정: {괜찮음|위험 / {kind}}",
        "판정{괜찮음|위험{kind}}끝",
    ],
)
def test_any_grammar_is_written_to_its_end(answer: str, twin: str) -> None:
    """Labels of several tokens that begin in the middle of a character, and text behind them."""
    case = _Own(twin, "own", lambda _mode: {}, answer=answer)
    guard = made_up.__wrapped__(case)
    questions = [(each.field, [one.text for one in each.answers]) for each in case.row.questions]
    paths = parse(answer, questions).paths()
    assert len(paths) == 4
    for path in paths:
        named = {field: case.row.questions[field == "kind"].answers[number].name for field, number in path.decisions}
        assert guard.text(guard.verdict("prompt", guard.answered("prompt", named, None))) == path.text


def test_a_verdict_that_stops_the_decode_is_shown() -> None:
    """As a verdict it is all that there is; a second code that is none (Llama Guard's) is not."""
    questions = (Question("verdict", (Answer("<|eot_id|>", label="fine"), Answer("bad", "unsafe"))),)
    guard = made_up.__wrapped__(_Own("llama-guard-3-8b", "own", lambda _mode: {}, answer="{verdict}", asked=questions))
    for label, text in (("fine", "<|eot_id|>"), ("bad", "bad")):
        assert guard.text(guard.verdict("prompt", guard.answered("prompt", {"verdict": label}, None))) == text


# What a parser reads where the verdict is safe, and where it is not; None: it raises.
_READS: dict[frozenset[tuple[bool, bool | None]], str] = {
    frozenset({(True, True), (False, False)}): "right",
    frozenset({(True, False), (False, False)}): "blocks all",
    frozenset({(True, True), (False, True)}): "**passes all**",
    frozenset({(True, None), (False, None)}): "error",
}


def _reads(parsers: tuple[Callable[[str], bool], ...], answers: list[tuple[str, bool]]) -> str:
    found: set[tuple[bool, bool | None]] = set()
    for (text, safe), parser in product(answers, parsers):
        try:
            found.add((safe, parser(text)))
        except ValueError:
            found.add((safe, None))
    return _READS.get(frozenset(found), f"now so, now so: {found}")


def _documented() -> dict[str, list[str]]:
    """By family, or safe-unsafe, the cells of the table in docs/services.md."""
    table = SERVICES.read_text(encoding="utf-8").partition("| answer |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {name: cells for first, *cells in rows for name in re.findall(r"`(?:NAME:)?([\w-]+)`", first)}


def test_the_documented_parsers_read_what_is_documented() -> None:
    """In both modes, the guard's own answers and those of the style that suits them."""
    documented = _documented()
    assert documented.keys() == {"safe-unsafe", *CARDS}
    for case in EVERY:
        guard = made_up(case)
        for mode in guard.modes:
            verdicts = [verdict for _, _, verdict in guard.every_answer(mode)]
            own = [(guard.text(verdict), verdict.safe) for verdict in verdicts]
            styled = [(safe_unsafe(guard.manifest, verdict), verdict.safe) for verdict in verdicts]
            assert [_reads(parsers, own) for parsers in LIBRARIES] == documented[case.family], (case.family, mode)
            assert [_reads(parsers, styled) for parsers in LIBRARIES] == documented["safe-unsafe"], (case.family, mode)


@_every
def test_safe_unsafe_follows_the_verdict(case: Case) -> None:
    """Strict and loose, by argmax and by threshold, on any scores."""
    guard = made_up(case)
    seen = set()
    for mode, seed, strict, threshold in product(guard.modes, range(10), (True, False), (None, 0.05, 0.95)):
        verdict = guard.verdict(mode, guard.scores(mode, seed), options=ScoreOptions(threshold, strict))
        first, *more = safe_unsafe(guard.manifest, verdict).split("\n")
        assert first == ("safe" if verdict.safe else "unsafe")
        assert bool(more) == bool(verdict.categories)
        seen.add(first)
    assert seen == {"safe", "unsafe"}


@pytest.mark.parametrize(
    ("family", "mode", "fields", "expected"),
    [
        ("llama-guard-3", "prompt", {"verdict": "unsafe", "category": "S2"}, "unsafe\nS2"),
        (
            "llama-guard-3-two-codes",
            "response",
            {"verdict": "unsafe", "category": "S10", "second_category": "S1"},
            "unsafe\nS10,S1",
        ),
        (
            "llama-guard-3-two-codes",
            "prompt",
            {"verdict": "unsafe", "category": "S5", "second_category": "none"},
            "unsafe\nS5",
        ),
        (
            "llama-guard-3-two-codes",
            "prompt",
            {"verdict": "unsafe", "category": "S5", "second_category": "S5"},
            "unsafe\nS5",
        ),
        ("qwen3guard-gen", "response", {"safety": "Controversial", "category": "PII", "refusal": "No"}, "unsafe\nPII"),
        ("kanana-safeguard", "prompt", {"verdict": "UNSAFE-S4"}, "unsafe\ncrime"),  # Llama Guard's S4 is another's
        (
            "wildguard",
            "response",
            {"harmful_request": "yes", "response_refusal": "yes", "harmful_response": "no"},
            "safe",
        ),
        (
            "wildguard-ko",
            "response",
            {"harmful_request": "no", "response_refusal": "no", "harmful_response": "yes"},
            "unsafe\nharmful response",
        ),
    ],
)
def test_safe_unsafe_names_the_category(family: str, mode: Mode, fields: Fields, expected: str) -> None:
    guard = by_family(family)
    verdict = guard.verdict(mode, guard.answered(mode, fields, None))
    assert safe_unsafe(guard.manifest, verdict) == expected
    if family.startswith("llama-guard"):
        codes = dict.fromkeys(value for field, value in fields.items() if field != "verdict" and value != "none")
        assert [code for name, code in llama_guard(expected).items() if name != "verdict"] == list(codes)


def test_controversial_is_safe_to_a_loose_reader() -> None:
    guard = by_family("qwen3guard-gen")
    scores = guard.answered("prompt", {"safety": "Controversial", "category": "PII"}, None)
    assert safe_unsafe(guard.manifest, guard.verdict("prompt", scores, options=ScoreOptions(strict=False))) == "safe"


@pytest.mark.parametrize(
    "model", ["guard:", "guard:latest", "guard:safe-unsafe:safe-unsafe", ":x", "guard:SAFE-UNSAFE"]
)
def test_an_unknown_style_is_not_found(model: str) -> None:
    with pytest.raises(NotFound, match="NAME:safe-unsafe"):
        style_of(model)
