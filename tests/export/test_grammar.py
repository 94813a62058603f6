"""Grammars of answers: what they spell, counted independently, and what is refused."""

from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardpass.export.families.grammar import Grammar, GrammarError, Path, Slot, parse

_YES_NO = (" yes", " no")
_HARMFUL = (("harmful_request", _YES_NO), ("response_refusal", _YES_NO))
_GUARD = (("verdict", ("safe", "unsafe")), ("category", ("1", "2", "10")))
_AB = (("a", ("x", "y")), ("b", ("1", "2")))
Questions = Sequence[tuple[str, Sequence[str]]]


def _spelled(grammar: str, questions: Questions) -> list[tuple[str, tuple[tuple[str, int], ...]]]:
    return [(path.text, path.decisions) for path in parse(grammar, questions).paths()]


def test_two_lines() -> None:
    text = "Harmful request:{ yes| no}\nResponse refusal:{ yes| no}"
    assert _spelled(text, _HARMFUL) == [
        (
            f"Harmful request:{request}\nResponse refusal:{refusal}",
            (("harmful_request", first), ("response_refusal", second)),
        )
        for (first, request), (second, refusal) in product(enumerate(_YES_NO), repeat=2)
    ]
    named = "Harmful request:{harmful_request}\nResponse refusal:{response_refusal}"
    assert parse(named, _HARMFUL) == parse(text, _HARMFUL)


def test_what_follows_an_answer_belongs_to_it() -> None:
    grammar = parse("\n\n{safe|unsafe\nS{category}}", _GUARD)
    assert [path.text for path in grammar.paths()] == ["\n\nsafe", *(f"\n\nunsafe\nS{code}" for code in (1, 2, 10))]
    assert grammar.paths()[0].decisions == (("verdict", 0),)
    assert grammar.paths()[3].decisions == (("verdict", 1), ("category", 2))
    assert grammar.fields == {"verdict", "category"}
    assert [slot.field for slot in grammar.slots] == ["verdict", "category"]
    # Written out, an inner slot comes after the outer one; it need not give every answer.
    assert [path.text for path in parse("{safe|unsafe S{2|10}!}.", _GUARD).paths()] == [
        "safe.",
        "unsafe S2!.",
        "unsafe S10!.",
    ]


def test_a_field_named_in_several_alternatives() -> None:
    questions = [("safety", ["Safe", "Unsafe", "Maybe"]), ("category", ["A", "B"])]
    assert [path.text for path in parse("{Unsafe {category}|Safe|Maybe {category}}", questions).paths()] == [
        "Unsafe A",
        "Unsafe B",
        "Safe",
        "Maybe A",
        "Maybe B",
    ]


def test_answers_in_another_order_keep_their_numbers() -> None:
    assert [(path.text, path.decisions[0][1]) for path in parse("{no|yes}", [("f", ["yes", "no"])]).paths()] == [
        ("no", 1),
        ("yes", 0),
    ]


def test_the_longer_answer_is_taken() -> None:
    questions = [("f", ["1", "10", "2"])]
    assert _spelled("{1|10|2}", questions) == [("1", (("f", 0),)), ("10", (("f", 1),)), ("2", (("f", 2),))]
    assert _spelled("{10x|2}", questions) == [("10x", (("f", 1),)), ("2", (("f", 2),))]


@pytest.mark.parametrize(
    ("grammar", "first"),
    [
        ("{{{a}", "{x"),
        ("}}{a}", "}x"),
        ("{a}}}", "x}"),
        ("{{{a}}}", "{x}"),
        ("{{}}{a}", "{}x"),
        ("|{a}||", "|x||"),
        ("{x||{{|y}", "x|{"),
        ("{x{{{b}|y}", "x{1"),
        ("{x||{1|2}||||z|y}", "x|1||z"),
        ("{x\n|y}\t\\n", "x\n\t\\n"),
        ("{x{1|2}}", ...),
        ("{x{1|2}|y}", "x1"),
    ],
)
def test_escapes(grammar: str, first: object) -> None:
    if first is ...:
        return _refused(grammar, _AB, "'x' begins|fewer than two answers")
    assert parse(grammar, _AB).paths()[0].text == first
    return None


def test_answers_may_hold_braces_and_bars() -> None:
    """In a named slot, as only the grammar's own text is read."""
    questions = [("f", ["{a|b}", "}"]), ("g", ["|", "{f}"])]
    assert [path.text for path in parse("{f}{g}", questions).paths()] == ["{a|b}|", "{a|b}{f}", "}|", "}{f}"]


_BAD = [
    ("", "has no slot"),
    ("yes", "has no slot"),
    ("{{a}}", "has no slot"),
    ("a|b", "has no slot"),
    ("{a", r"not closed.*character 1,"),
    ("{zz", "not closed"),
    ("{", "begins with no answer"),
    ("{x|y", r"not closed; expected } \(character 1, in '{x\|y'\)"),
    ("-{x|y{1|2}", r"not closed.*character 2"),
    ("{x|y{1|2", r"not closed.*character 5"),
    ("}", r"closes nothing.*character 1,"),
    ("{a}}", r"closes nothing.*character 4,"),
    ("{x|y}}", "closes nothing"),
    ("{}", "begins with no answer of a; expected one of .'x', 'y'."),
    ("{x|}", "'' begins with no answer"),
    ("{|y}", "'' begins with no answer"),
    ("{z|y}", r"'z' begins with no answer of a.*character 2,"),
    ("{x|zz}", r"'zz' begins with no answer of a.*character 4,"),
    ("{ x|y}", "' x' begins with no answer"),
    ("{X|y}", "'X' begins with no answer"),
    ("{x|{b}}", "'' begins with no answer"),
    ("{x|x}", "same answer twice"),
    ("{xx|xy}", "same answer twice"),
    ("{x }", "fewer than two answers"),
    ("{c}", r"no field 'c'; expected one of \['a', 'b'\]"),
    ("{x}", "no field 'x'"),
    ("{x|y}{1|2}{1|2}", r"more slots than fields.*name the slot.*character 11,"),
    ("{a}{a}", "'xx' decides a field twice"),
    ("{x|y}{a}", "decides a field twice"),
    ("{x{b}|y}{b}", r"'x11' decides a field twice: \['a', 'b', 'b'\]"),
]


@pytest.mark.parametrize(("grammar", "says"), _BAD)
def test_bad_grammars(grammar: str, says: str) -> None:
    _refused(grammar, _AB, says)


def _refused(grammar: str, questions: Questions, says: str) -> None:
    with pytest.raises(GrammarError, match=says) as caught:
        parse(grammar, questions)
    assert type(caught.value) is GrammarError


@pytest.mark.parametrize("grammar", ["{x{a}|y}", "{x{x|y}|y}", "{x{b}{a}|y}", "{x{x{x{x|y}|y}|y}|y}", "{a{a}}"])
def test_no_grammar_is_cyclic(grammar: str) -> None:
    """A slot holds answers, and names fields alone: one back to its own decides it twice, or is text."""
    _refused(grammar, _AB, "decides a field twice|begins with no answer|more slots than fields")


def test_fields_with_too_few_answers() -> None:
    _refused("{f}", [("f", ["x"])], "fewer than two answers")
    _refused("{f}", [("f", [])], "fewer than two answers")
    _refused("{f}" * 5000, [("f", ["x"])], "fewer than two answers")
    _refused("{x|y}", [("f", ["", "y"])], "'x' begins with no answer")
    _refused("{x|y}", [], "more slots than fields")


@pytest.mark.parametrize(("slots", "answers"), [(6, 4), (12, 2), (2, 64), (1, 4096)])
def test_as_many_answers_as_may_be(slots: int, answers: int) -> None:
    questions = [(f"f{n}", [f"<{m}>" for m in range(answers)]) for n in range(slots)]
    text = "".join(f"{{f{n}}}" for n in range(slots))
    assert len(parse(text, questions).paths()) == 4096
    _refused(text + "{g}", [*questions, ("g", ["1", "2"])], "more than 4096 complete answers")


def test_more_answers_than_can_be_counted_out() -> None:
    """Python refuses to print a number of that many digits."""
    _refused("{a}" * 20_000, _AB, "more than 4096 complete answers")
    deep = [(f"f{n}", ["x", "y"]) for n in range(64)]
    _refused("".join(f"{{f{n}}}" for n in range(64)), deep, "more than 4096 complete answers")
    assert len(parse("{x" * 64 + "|y}" * 64, deep).paths()) == 65  # nested they add up


@settings(max_examples=500)
@given(st.text(st.sampled_from("{}|xy12ab ")) | st.text())
def test_any_text_is_a_grammar_or_an_error(text: str) -> None:
    try:
        grammar = parse(text, _AB)
    except GrammarError:
        return
    paths = grammar.paths()
    assert isinstance(grammar, Grammar)
    assert 2 <= len(paths) == len({path.decisions for path in paths})
    assert all(len(path.decisions) <= 2 for path in paths)


# A grammar as nested lists: text, or a slot's field with (answer, what follows) for each of its alternatives.
_Part = str | tuple[int, list[tuple[int, list["_Part"]]]]
_ANSWERS = [["yes", "no", "n/a"], [" a", " b"], ["<1>", "<2>", "<3>"], ["가", "나|{}"]]
_QUESTIONS = [(f"f{n}", answers) for n, answers in enumerate(_ANSWERS)]
# Digits and such, so that no text makes an answer longer.
_literals = st.text(st.sampled_from("{}|:.\n -_"), min_size=1, max_size=4)


@st.composite
def _parts(draw: st.DrawFn, fields: list[int], inner: bool = False) -> list[_Part]:
    """Text and slots of the fields, in their order, some inside others; within a slot no closing brace."""
    parts: list[_Part] = []
    rest = list(fields)
    while rest:
        if draw(st.booleans()):
            text = draw(_literals)
            parts.append(text.replace("}", "") if inner else text)
        field = rest.pop(0)
        numbers = draw(st.permutations(range(len(_ANSWERS[field]))))[: draw(st.integers(2, len(_ANSWERS[field])))]
        if any("}" in _ANSWERS[field][number] for number in numbers):
            parts.append((field, [(number, []) for number in range(len(_ANSWERS[field]))]))  # has to be named
            continue
        alternatives: list[tuple[int, list[_Part]]] = []
        for number in numbers:
            inside = rest[: draw(st.integers(0, len(rest)))]
            rest = rest[len(inside) :]
            alternatives.append((number, draw(_parts(inside, inner=True))))
        parts.append((field, alternatives))
    return parts


def _written(parts: list[_Part], inner: bool = False) -> str:
    """As a grammar: a slot that gives all answers, and nothing behind them, by its name."""
    text = ""
    for part in parts:
        if isinstance(part, str):
            escaped = part.replace("{", "{{").replace("}", "}}")
            text += escaped.replace("|", "||") if inner else escaped
            continue
        field, alternatives = part
        if all("}" not in _ANSWERS[field][number] for number, _ in alternatives):
            written = (_ANSWERS[field][number] + _written(rest, inner=True) for number, rest in alternatives)
            text += "{" + "|".join(written) + "}"
        else:
            text += f"{{f{field}}}"
    return text


def _expected(parts: list[_Part]) -> list[Path]:
    """All texts that the parts spell, and what they decide."""
    choices: list[list[Path]] = []
    for part in parts:
        if isinstance(part, str):
            choices.append([Path(part)])
            continue
        field, alternatives = part
        choices.append(
            [
                Path(_ANSWERS[field][number] + tail.text, ((f"f{field}", number), *tail.decisions))
                for number, rest in alternatives
                for tail in _expected(rest)
            ]
        )
    return [
        Path("".join(path.text for path in chosen), tuple(said for path in chosen for said in path.decisions))
        for chosen in product(*choices)
    ]


@settings(max_examples=300)
@given(parts=_parts([0, 1, 2, 3]))
def test_a_grammar_spells_what_it_was_built_from(parts: list[_Part]) -> None:
    # Slots that are written out take the fields in order, which is how they were drawn; named ones take none,
    # so the only one that has to be named is the last.
    grammar = parse(_written(parts), _QUESTIONS)
    assert grammar.paths() == _expected(parts)
    assert grammar.fields == {f"f{n}" for n in range(4)}
    assert all(isinstance(slot, Slot) for slot in grammar.slots)
