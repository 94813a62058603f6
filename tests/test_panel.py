"""Several guards on one text: what they come to, who is not asked, and what a failure does."""

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardpass import DeadlineExceeded, EngineError, Guard, InputError, Panel
from guardpass.panel_policy import settle

LONG = 30.0


class Scripted:
    """In place of an engine: counts passes, waits for a door, may fail."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.ran, self.error = engine, 0, None
        self.door = threading.Event()
        self.door.set()

    def run(self, request: Any) -> Any:
        self.ran += 1
        assert self.door.wait(LONG)
        if self.error is not None:
            raise self.error
        return self.engine.run(request)


@pytest.fixture
def trio(exported: Callable[..., Path]) -> Iterator[tuple[dict[str, Guard], dict[str, Scripted]]]:
    """Kanana's three: one of both modes, two of prompts alone."""
    paths = {"8b": "8b: untied, grouped heads, two shards, bf16", "siren": "siren: one-sided template",
             "prompt": "2.1b: tied, heads wider than hidden"}  # fmt: skip
    guards = {name: Guard.load(exported(path), threads=1) for name, path in paths.items()}
    engines = {}
    for name, guard in guards.items():
        guard._engine = engines[name] = Scripted(guard._engine)
    yield guards, engines
    for name, guard in guards.items():
        engines[name].door.set()
        guard.close(LONG)


TEXT = "text 0"


def _split(guards: dict[str, Guard]) -> float:
    """A threshold on whose two sides the guards' scores of TEXT are; twins have random weights."""
    scores = sorted(guard.check(TEXT).score for guard in guards.values())
    return (scores[0] + scores[1]) / 2


@pytest.mark.parametrize("order", ["together", "given", "cheapest"])
def test_policies_are_what_python_says_they_are(trio: tuple[dict[str, Guard], Any], order: Any) -> None:
    guards, _ = trio
    line = _split(guards)
    alone = {name: guard.check(TEXT, threshold=line) for name, guard in guards.items()}
    unsafe = {name: not verdict.safe for name, verdict in alone.items()}
    weights = {"8b": 3.0, "siren": 1.0, "prompt": 0.5}
    mean = sum(weights[name] * alone[name].score for name in weights) / sum(weights.values())
    expected = {"any": any(unsafe.values()), "all": all(unsafe.values()), "weighted": mean >= 0.5}
    for policy, flagged in expected.items():
        panel = Panel(guards, policy=policy, order=order, weights=weights)  # type: ignore[arg-type]
        for found in (panel.check(TEXT, threshold=line), asyncio.run(panel.acheck(TEXT, threshold=line, timeout=LONG))):
            assert found.safe is not flagged, (policy, order)
            for name, verdict in found.members.items():
                assert verdict is None or (verdict.safe, verdict.score) == (alone[name].safe, alone[name].score)
            assert set(found.decided_by) <= {name for name, verdict in found.members.items() if verdict is not None}
            assert found.to_json()["members"].keys() == guards.keys()


def test_what_is_settled_asks_no_more(trio: tuple[dict[str, Guard], dict[str, Scripted]]) -> None:
    guards, engines = trio
    line = _split(guards)
    verdicts = {name: guard.check(TEXT, threshold=line) for name, guard in guards.items()}
    first = next(name for name, verdict in verdicts.items() if not verdict.safe)
    order = [first, *(name for name in guards if name != first)]
    before = {name: engine.ran for name, engine in engines.items()}
    found = Panel({name: guards[name] for name in order}, order="given").check(TEXT, threshold=line)
    assert (found.safe, found.decided_by) == (False, (first,))
    assert {name: engine.ran - before[name] for name, engine in engines.items()} == {
        name: int(name == first) for name in guards
    }


def test_together_gives_up_those_not_needed(trio: tuple[dict[str, Guard], dict[str, Scripted]]) -> None:
    guards, engines = trio
    line = _split(guards)
    verdicts = {name: guard.check(TEXT, threshold=line) for name, guard in guards.items()}
    first = next(name for name, verdict in verdicts.items() if not verdict.safe)
    others = [name for name in guards if name != first]
    for name in others:
        engines[name].door.clear()
        guards[name].submit("in front")
    found = Panel(guards).check(TEXT, threshold=line)  # the others never come to it
    assert not found.safe
    assert [name for name, verdict in found.members.items() if verdict is not None] == [first]
    before = {name: engines[name].ran for name in others}
    for name in others:
        engines[name].door.set()
        assert guards[name].close(LONG)
        assert engines[name].ran <= before[name] + 1  # what stood in front, and not the panel's


def test_members_without_the_mode_are_not_asked(trio: tuple[dict[str, Guard], Any]) -> None:
    guards, _ = trio
    found = Panel(guards).check("a text", "a reply")
    assert [name for name, verdict in found.members.items() if verdict is not None] == ["8b"]
    with pytest.raises(InputError, match="mode"):
        Panel([guards["siren"], guards["prompt"]]).check("a text", "a reply")


@pytest.mark.parametrize("order", ["together", "given", "cheapest"])
def test_a_failing_member_counts_only_where_it_could_matter(
    trio: tuple[dict[str, Guard], dict[str, Scripted]], order: Any
) -> None:
    guards, engines = trio
    line = _split(guards)
    verdicts = {name: guard.check(TEXT, threshold=line) for name, guard in guards.items()}
    for broken, policy in itertools.product(guards, ("any", "all")):
        engines[broken].error = EngineError("broken")
        rest = [verdict for name, verdict in verdicts.items() if name != broken]
        settled = any(verdict.safe == (policy == "all") for verdict in rest)
        panel = Panel(guards, policy=policy, order=order)  # type: ignore[arg-type]
        if settled:
            assert panel.check(TEXT, threshold=line).safe == (policy == "all")
        else:
            with pytest.raises(EngineError):
                panel.check(TEXT, threshold=line)
            assert panel.check(TEXT, threshold=line, on_error="block").safe == (
                policy == "all" and any(v.safe for v in rest)
            )
        engines[broken].error = None


def test_deadlines_and_cancelling_hold_for_all(trio: tuple[dict[str, Guard], dict[str, Scripted]]) -> None:
    guards, engines = trio
    for engine in engines.values():
        engine.door.clear()
    for order in ("together", "given"):
        with pytest.raises(DeadlineExceeded):
            Panel(guards, order=order).check("text", timeout=0.1)  # type: ignore[arg-type]
    future = Panel(guards).submit("text")
    assert future.cancel()
    assert all(guard.scheduler.load[0] <= 2 for guard in guards.values())


def test_what_a_panel_refuses(guard: Guard) -> None:
    for wrong in ({"policy": "most"}, {"order": "best"}, {"weights": {"nobody": 1}}, {"threshold": 2.0},
                  {"weights": {"a": 0.0}}):  # fmt: skip
        with pytest.raises(InputError):
            Panel({"a": guard}, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        Panel([])
    assert len(Panel([guard, guard]).guards) == 2


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.floats(0.1, 5)), min_size=1, max_size=5),
    st.sampled_from(["any", "all", "weighted"]), st.floats(0, 1), st.integers(0, 5),
)  # fmt: skip
def test_an_early_outcome_is_the_final_one(
    guard: Guard, members: list[tuple[float, bool, float]], policy: Any, threshold: float, spoken: int
) -> None:
    """Whatever those say who have not spoken."""
    blank = guard.check("")
    verdicts = {str(n): replace(blank, score=score, safe=safe) for n, (score, safe, _) in enumerate(members)}
    weights = {str(n): weight for n, (_, _, weight) in enumerate(members)}
    early = settle(policy, threshold, weights, dict(list(verdicts.items())[:spoken]))
    final = settle(policy, threshold, weights, verdicts)
    assert final is not None
    if early is not None:
        assert early.unsafe == final.unsafe
