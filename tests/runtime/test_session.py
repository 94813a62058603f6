"""A reply that grows: at every step the verdict of a fresh check, at the price of what is new."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from guardpass import BadText, Closed, Guard, InputError, Unsupported
from guardpass.bench.twins import find, tiny

from ..support.helpers import opened, texts
from ..support.twins import Twins, wide

# Of one slot, of a long tree of several, of many branches.
_TWINS = ("kanana-safeguard-8b", "wildguard-ko-3b", "shieldgemma-2b")
# llama.cpp's attention adds up otherwise for few tokens than for many, over keys and values in 16 bits.
_NEAR = 0.01
_ENGINES = [pytest.param("f32", id="llamacpp", marks=pytest.mark.llamacpp), pytest.param("int8", id="native")]


@pytest.fixture(scope="module")
def made(twins: Twins) -> Callable[[str, str], Path]:
    """A guard of a twin: of engine native where the quantization is one of its own, else of llama.cpp."""

    def make(twin: str, quant: str) -> Path:
        engine = "native" if quant.startswith("int") else "llamacpp"
        if engine == "native":
            pytest.importorskip("guardpass_kernels")
        return twins.guard(wide(tiny(find(twin))), quant, engine=engine)

    return make


def _chunks(text: str, seed: int) -> list[str]:
    """Cut anywhere, also within what is one token, and empty ones between."""
    rng = random.Random(seed)
    cuts = sorted(rng.choices(range(len(text) + 1), k=12))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@pytest.mark.llamacpp
@pytest.mark.parametrize("twin", _TWINS)
@pytest.mark.parametrize("quant", ["f32", "q8_0"])
def test_every_step_is_a_fresh_check(made: Callable[[str, str], Path], twin: str, quant: str) -> None:
    guard = opened(made(twin, quant))
    worst = 0.0
    for seed, prompt in enumerate(texts(3, seed=11)):
        reply = "".join(texts(4, seed=seed + 20))
        with guard.stream(prompt) as session:
            for chunk in _chunks(reply, seed):
                found, fresh = session.feed(chunk), guard.check(prompt, session.text)
                worst = max(worst, abs(found.score - fresh.score))
                for name, field in fresh.fields.items():
                    other = found.fields[name]
                    assert (field is None) == (other is None)
                    if field is not None and other is not None:
                        first, second = sorted(field.labels.values(), reverse=True)[:2]
                        assert other.label == field.label or first - second < 5 * _NEAR
                assert found.tokens.prefix + found.tokens.run == fresh.tokens.prefix + fresh.tokens.run
            assert session.text == reply
    assert worst < _NEAR


@pytest.mark.parametrize("quant", _ENGINES)
def test_only_what_is_new_is_run(made: Callable[[str, str], Path], quant: str) -> None:
    guard = opened(made("kanana-safeguard-8b", quant))
    empty = guard.check("질문", "").tokens.run
    with guard.stream("질문") as session:
        session.feed("word " * 300)
        found = session.feed("more")
        assert found.tokens.run < empty + 12
        session.feed("x" * 100)
    assert guard.check("질문", session.text).tokens.run > 300


@pytest.mark.parametrize("quant", _ENGINES)
def test_text_beyond_one_pass_is_still_that_of_a_fresh_check(made: Callable[[str, str], Path], quant: str) -> None:
    guard = Guard.load(made("kanana-safeguard-8b", quant), threads=1, max_tokens=200, normalize="off")
    with guard.stream("질문") as session:
        for n in range(8):
            found = session.feed("lorem ipsum " * 20)
            fresh = guard.check("질문", session.text)
            assert (found.windows, found.label) == (fresh.windows, fresh.label)
            assert found.score == pytest.approx(fresh.score, abs=_NEAR), n
        assert found.windows > 1


@pytest.mark.parametrize("quant", _ENGINES)
def test_sessions_side_by_side_do_not_mix(made: Callable[[str, str], Path], quant: str) -> None:
    guard = opened(made("wildguard-ko-3b", quant))
    one, other = guard.stream("a"), guard.stream("b")
    for n in range(5):
        for session, word in ((one, "yes "), (other, "no ")):
            found = session.feed(word * (n + 1))
            fresh = guard.check("a" if session is one else "b", session.text)
            assert found.score == pytest.approx(fresh.score, abs=_NEAR)
    one.close()
    assert other.feed("on").label


@pytest.mark.llamacpp
def test_what_cannot_be_fed(made: Callable[[str, str], Path], guard: Guard) -> None:
    with pytest.raises(Unsupported, match="--engine native or llamacpp"):
        guard.stream("a prompt")  # ONNX
    gguf = opened(made("kanana-safeguard-8b", "f32"))
    with pytest.raises(InputError):
        gguf.stream("a prompt", threshold=3.0)
    with pytest.raises(BadText):
        gguf.stream("\ud800")
    with gguf.stream("a prompt") as session:
        before = session.feed("good")
        with pytest.raises(BadText):
            session.feed("\ud800")
        assert session.text == "good"
        assert session.feed("").score == pytest.approx(before.score, abs=_NEAR)
    with pytest.raises(Closed):
        session.feed("more")
