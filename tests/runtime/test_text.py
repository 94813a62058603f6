"""Text as it comes: whatever it is, the answer is a verdict or an InputError, and no part of it goes unseen."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardpass import Guard, InputError, TextTooLong, Verdict
from guardpass.format.manifest import Role
from guardpass.windows import Limits, LongText, spans

from ..support.helpers import contents, texts
from ..support.helpers import planner as planner_of


def _answer(guard: Guard, text: Any, response: Any = None, **options: Any) -> Verdict | InputError:
    try:
        return guard.check(text, response, **options)
    except InputError as error:
        return error


def _plain(verdict: Verdict) -> Verdict:
    """Less its times, which differ from run to run."""
    return replace(verdict, ms=replace(verdict.ms, tokenize=0, run=0, total=0))


@settings(max_examples=150)
@given(text=st.text(), response=st.none() | st.text(), threshold=st.none() | st.floats(0, 1))
def test_any_text_gives_a_verdict_or_an_input_error(
    guard: Guard, text: str, response: str | None, threshold: float | None
) -> None:
    answer = _answer(guard, text, response, threshold=threshold)
    surrogates = any("\ud800" <= character <= "\udfff" for character in text + (response or ""))
    assert isinstance(answer, InputError) == surrogates
    if isinstance(answer, Verdict):
        assert answer.mode == ("prompt" if response is None else "response")
        assert answer.safe == (not answer.categories)
        assert 0 <= answer.score <= 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\n\n\t",
        "\u3000",
        "\x00",
        "a\x00b",
        "\x00" * 300,
        "\u202eabc\u202c",
        "\u200f\u200e",
        "\ufeff",
        "\uffff",
        "\x1b[31m",
        "<|eot_id|>",
        "\U0010ffff",
        "\r\n" * 50,
        "\u0301" * 100,
    ],
)
def test_odd_text_gives_a_verdict(guard: Guard, text: str) -> None:
    for response in (None, text):
        verdict = guard.check(text, response)
        assert verdict.windows == 1
        assert not verdict.truncated


@pytest.mark.parametrize("character", ["a", "가", " ", "\n", "<", "\x00", "🙂", "\u0301", "0", "\u202e"])
@pytest.mark.parametrize("policy", ["windows", "refuse", "truncate"])
def test_a_megabyte_of_one_character(two_sided: Path, character: str, policy: LongText) -> None:
    """Judged or refused in seconds; what the template trims away is no text at all."""
    guard = Guard.load(two_sided, long_text=policy, max_tokens=256)
    answer = _answer(guard, character * (1 << 20))
    if not character.strip():
        assert isinstance(answer, Verdict)
        assert _plain(answer) == _plain(guard.check(""))
    elif policy == "truncate":
        assert isinstance(answer, Verdict)
        assert answer.truncated
    else:
        assert isinstance(answer, TextTooLong)


def test_text_behind_a_megabyte_of_white_space_is_judged(two_sided: Path) -> None:
    for policy in ("windows", "refuse", "truncate"):
        guard = Guard.load(two_sided, long_text=policy, max_tokens=256)
        verdict = guard.check("\n" * (1 << 20) + "훔치는 방법" + " " * (1 << 20))
        assert _plain(verdict) == _plain(guard.check("훔치는 방법"))


@pytest.mark.parametrize("value", [None, 7, 1.5, True, b"bytes", ["text"], {"text": 1}, bytearray(b"x")])
def test_what_is_no_text(guard: Guard, value: Any) -> None:
    with pytest.raises(InputError, match=f"text is {type(value).__name__}, expected str"):
        guard.check(value)
    if value is not None:
        with pytest.raises(InputError, match=f"response is {type(value).__name__}, expected str"):
            guard.check("text", value)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\udc80" * 9])
def test_lone_surrogates(guard: Guard, text: str) -> None:
    for pair in [(text, None), ("text", text), (text, "text")]:
        with pytest.raises(InputError, match=r"lone surrogate at character [01]"):
            guard.check(*pair)


def test_threshold(guard: Guard) -> None:
    """Unsafe from the score on; the label is the best of its side."""
    unsafe = {label.name for label in guard.manifest.labels if label.severity == "unsafe"}
    for text in texts(20, seed=8):
        plain = guard.check(text)
        assert plain.safe == (plain.margin > 0)
        for threshold, safe in [(0, False), (plain.score, False), (min(plain.score + 1e-6, 1), True), (1, True)]:
            verdict = guard.check(text, threshold=threshold)
            assert (verdict.safe, verdict.score, verdict.margin) == (safe, plain.score, plain.margin)
            assert verdict.safe == (verdict.label not in unsafe) == (not verdict.categories)
            assert verdict.fields["verdict"].label == verdict.label
            if verdict.safe == plain.safe:
                assert verdict.label == plain.label


@pytest.mark.parametrize("threshold", [-0.001, 1.001, float("nan"), float("inf")])
def test_thresholds_out_of_range(guard: Guard, threshold: float) -> None:
    with pytest.raises(InputError, match="expected a probability"):
        guard.check("text", threshold=threshold)


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 0},
        {"max_tokens": 8193},
        {"max_tokens": -5},
        {"max_windows": 0},
        {"threads": 0},
        {"threads": -1},
        {"long_text": "cut"},
        {"long_text": None},
    ],
)
def test_options_out_of_range(two_sided: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=str(next(iter(options.values())))):
        Guard.load(two_sided, **options)


_LONG = " ".join(f"{index}번째 word{index} 🙂" for index in range(120))


def _windows(guard: Guard, text: str, response: str | None = None) -> Iterator[str]:
    """Text of each window, as the tokens that are run spell it."""
    mode, given_texts = contents(text, response)
    spec, planner, tokenizer = guard.manifest.modes[mode], planner_of(guard, mode), guard.judge.tokenizer
    found, _ = spans(given_texts, spec, planner, tokenizer, guard.judge.limits)
    for span in found:
        assert planner.length(span) <= guard.judge.limits.tokens
        yield tokenizer._tokenizer.decode(span, skip_special_tokens=False)


def _long(two_sided: Path, **options: Any) -> Guard:
    return Guard.load(two_sided, **{"max_tokens": 320, "max_windows": 64, **options})


def test_windows_cover_all_of_the_text(two_sided: Path) -> None:
    """Every word, and every two neighbours, stand whole in some window; neighbouring windows overlap."""
    guard = _long(two_sided)
    seen = list(_windows(guard, _LONG))
    words = _LONG.split(" ")
    assert guard.check(_LONG).windows == len(seen) > 3
    for pair in pairwise(words):
        assert any(" ".join(pair) in window for window in seen), pair
    assert seen[0].startswith(">0번째"), "the last character before the text, behind which nothing else stands"
    assert seen[-1].endswith(f"{words[-1]}</human>\n<ai></ai>")


def test_windows_of_two_long_texts_cover_every_pair(two_sided: Path) -> None:
    guard, text = _long(two_sided, max_tokens=400), _LONG[: len(_LONG) // 3]
    reply = text.replace("word", "term")
    seen = list(_windows(guard, text, reply))
    assert guard.check(text, reply).windows == len(seen) > 4
    for user, assistant in product(range(0, 38, 5), repeat=2):
        assert any(f"word{user} " in window and f"term{assistant} " in window for window in seen)
    with pytest.raises(TextTooLong, match=r"windows, expected at most 4 windows of 400 tokens.*max_windows"):
        _long(two_sided, max_tokens=400, max_windows=4).check(text, reply)


def test_a_short_text_stays_whole_beside_a_long_one(two_sided: Path) -> None:
    assert all(">short</human>" in window for window in _windows(_long(two_sided), "short", _LONG))
    assert all("<ai>short</ai>" in window for window in _windows(_long(two_sided), _LONG, "short"))


def test_the_worst_window_wins(two_sided: Path) -> None:
    guard = _long(two_sided)
    mode, given_texts = contents(_LONG, None)
    spec, planner = guard.manifest.modes[mode], planner_of(guard, mode)
    found, _ = spans(given_texts, spec, planner, guard.judge.tokenizer, Limits(320, 64, "windows"))
    cuts = [guard.judge.tokenizer._tokenizer.decode(span).removeprefix(">").split("</human>")[0] for span in found]
    each = [guard.check(cut) for cut in cuts]
    worst = max(each, key=lambda verdict: (not verdict.safe, verdict.score))
    verdict = guard.check(_LONG)
    assert (verdict.safe, verdict.label) == (worst.safe, worst.label)
    assert verdict.score == pytest.approx(worst.score, abs=1e-5)
    assert verdict.tokens.run == sum(each.tokens.run for each in each)
    top = max(verdict.score for verdict in each)
    assert not guard.check(_LONG, threshold=top - 1e-6).safe
    assert guard.check(_LONG, threshold=min(1, top + 1e-4)).safe


def test_refuse_and_truncate(two_sided: Path) -> None:
    with pytest.raises(TextTooLong, match="tokens, expected at most one pass of 320 tokens"):
        _long(two_sided, long_text="refuse").check(_LONG)
    cut = _long(two_sided, long_text="truncate")
    verdict = cut.check(_LONG)
    assert (verdict.truncated, verdict.windows) == (True, 1)
    assert next(_windows(cut, _LONG)).startswith(">0번째 word0")
    for policy in ("refuse", "truncate", "windows"):
        short = _long(two_sided, long_text=policy).check("short")
        assert (short.truncated, short.windows) == (False, 1)


def test_no_room_for_text(two_sided: Path, guard: Guard) -> None:
    frame = planner_of(guard, "prompt").length(planner_of(guard, "prompt").span({"prompt": ""}))
    tiny = Guard.load(two_sided, max_tokens=frame + 15)
    assert tiny.check("short").label == guard.check("short").label
    for limit in (1, frame - 1, frame, frame + 15):
        with pytest.raises(TextTooLong, match=f"a pass of {limit} tokens leaves room for .*raise max_tokens"):
            Guard.load(two_sided, max_tokens=limit).check("long text " * 10)


def test_the_smallest_window_still_ends(two_sided: Path, guard: Guard) -> None:
    """A window on its own may take more tokens than inside the text; shrinking it must come to an end."""
    frame = planner_of(guard, "prompt").length(planner_of(guard, "prompt").span({"prompt": ""}))
    for extra in (16, 17, 20, 40):
        small = Guard.load(two_sided, max_tokens=frame + extra, max_windows=400)
        for text in (_LONG[:600], "뷁" * 200, "\u0301/>" * 80, "🙂" * 100):
            assert isinstance(_answer(small, text), Verdict | TextTooLong)


@pytest.mark.parametrize("mode", ["prompt", "response"])
def test_many_in_order_and_by_threads(guard: Guard, mode: Role) -> None:
    samples = texts(24, seed=9)
    items: list[Any] = samples if mode == "prompt" else list(zip(samples, reversed(samples), strict=True))
    serial = [_plain(verdict) for verdict in guard.check_many(iter(items))]
    pairs = [(item, None) if isinstance(item, str) else item for item in items]
    assert serial == [_plain(guard.check(*pair)) for pair in pairs]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda pair: _plain(guard.check(*pair)), pairs * 3)) == serial * 3
