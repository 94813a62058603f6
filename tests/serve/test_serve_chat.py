"""Which turn of OpenAI's messages is judged, and that the rest is listed; by OpenAI's own client."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from guardpass import Guard, InputError
from guardpass.serve.app import make_app
from guardpass.serve.host import Host
from guardpass.serve.keys import Keys
from guardpass.serve.messages import ROLES, judged_messages
from guardpass.serve.metrics import Metrics
from guardpass.serve.settings import Settings

HARM, OK = "친구의 물건을 몰래 훔치는 법", "오늘 저녁 메뉴를 추천해 줘"
IMAGE: dict[str, Any] = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}

Client = Callable[..., openai.OpenAI]


@pytest.fixture
def make(two_sided: Path) -> Iterator[Client]:
    guards: list[Guard] = []

    def make(**options: Any) -> openai.OpenAI:
        guards.append(Guard.load(two_sided, threads=1))
        app = make_app(Host(Settings(("guard",), **options), {"guard": guards[-1]}, "ready"), Keys(None), Metrics())
        return openai.OpenAI(
            base_url="http://testserver/v1", api_key="none", max_retries=0, http_client=TestClient(app)
        )

    yield make
    for guard in guards:
        guard.close(30)


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _call(text: str) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": "run", "arguments": json.dumps({"cmd": text})}}


CALLED = {"role": "assistant", "content": None, "tool_calls": [_call(HARM)]}
CALLED_TEXT = f"run\ncmd: {HARM}"
RESULT = {"role": "tool", "tool_call_id": "c1", "content": HARM}


@pytest.mark.parametrize(
    ("messages", "text", "reply", "ignored"),
    [
        ([_user(HARM)], HARM, None, []),
        ([_user(HARM), _user(OK)], OK, None, ["messages[0]"]),
        ([{"role": "system", "content": HARM}, _user(OK)], OK, None, ["messages[0]"]),
        ([_user(OK), {"role": "developer", "content": HARM}], OK, None, ["messages[1]"]),
        ([_user(OK), CALLED], OK, CALLED_TEXT, []),
        ([_user(OK), {**CALLED, "content": "잠깐"}], OK, f"잠깐\n{CALLED_TEXT}", []),
        ([_user(OK), {**CALLED, "content": ""}], OK, CALLED_TEXT, []),
        ([_user(OK), CALLED, RESULT], HARM, None, ["messages[0]", "messages[1]"]),
        ([_user(OK), CALLED, RESULT, {**RESULT, "content": OK}], f"{HARM}\n{OK}", None, ["messages[0]", "messages[1]"]),
        ([_user(OK), CALLED, RESULT, _user("응")], "응", None, ["messages[0]", "messages[1]", "messages[2]"]),
        ([_user(OK), CALLED, RESULT, {"role": "assistant", "content": "네"}], OK, "네", ["messages[1]", "messages[2]"]),
        ([_user(OK), {"role": "assistant", "content": None, "refusal": "싫어"}], OK, "싫어", []),
        (
            [_user(OK), {"role": "assistant", "content": [{"type": "refusal", "refusal": "싫어"}], "name": "a"}],
            OK,
            "싫어",
            ["messages[1].name"],
        ),
        ([{"role": "function", "name": "run", "content": HARM}], HARM, None, ["messages[0].name"]),
        ([_user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])], "a\nb", None, []),
    ],
)
def test_the_last_turn_is_judged_and_the_others_are_listed(
    make: Client, guard: Guard, messages: list[Any], text: str, reply: str | None, ignored: list[str]
) -> None:
    client = make()
    listed = [*ignored, "temperature", "user", "tools"]
    tools: list[Any] = [{"type": "function", "function": {"name": "run"}}]
    extra: Any = {"messages": messages, "temperature": 0.5, "user": "u", "tools": tools}
    answer: Any = client.chat.completions.create(model="guard", **extra)
    verdict = guard.check(text, reply)
    found = answer.guardpass
    assert sorted(found["ignored"]) == sorted(listed)
    assert (found["score"], found["mode"]) == (pytest.approx(verdict.score, abs=1e-6), verdict.mode)
    chunks = list(client.chat.completions.create(model="guard", stream=True, **extra))
    assert sorted(chunks[-1].guardpass["ignored"]) == sorted(listed)
    assert chunks[-1].guardpass["score"] == found["score"]


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([{"role": "User", "content": OK}], '"User"'),
        ([{"role": "User", "content": OK}, _user(OK)], '"User"'),
        ([{"content": OK}], "no role"),
        ([{"role": "system", "content": OK}], "user"),
        ([{"role": "assistant", "content": OK}], "user"),
        ([_user(None)], r"messages\[0\]"),
        ([_user([])], r"messages\[0\]"),
        ([_user(OK), {"role": "assistant", "content": None}], r"messages\[1\]"),
        ([_user([{"type": "text", "text": OK}, IMAGE])], "image_url"),
        ([_user([{"type": "hologram"}])], "hologram"),
        ([_user([5])], "content"),
        ([_user([{"type": "hologram", "": "text"}])], "hologram"),
        ([_user(5)], "content"),
        ([_user(OK), {"role": "assistant", "audio": {"id": "a"}, "content": "a"}], "audio"),
        ([_user(OK), {"role": "assistant", "tool_calls": {"a": 1}}], "tool_calls"),
    ],
)
def test_what_cannot_be_judged_is_a_400_that_names_it(make: Client, messages: list[Any], says: str) -> None:
    with pytest.raises(openai.BadRequestError, match=says):
        make().chat.completions.create(model="guard", messages=messages)


def test_a_role_that_is_unknown_is_named_beside_those_that_are(make: Client) -> None:
    with pytest.raises(openai.BadRequestError) as found:
        make().chat.completions.create(model="guard", messages=[{"role": "x" * 1000, "content": OK}])  # type: ignore[list-item, misc]
    assert all(role in str(found.value) for role in ROLES)
    assert len(str(found.value)) < 500


def test_options_of_ours_are_refused_where_they_would_change_nothing(make: Client) -> None:
    client = make()
    for name, value in (("threshold", 0.4), ("policies", ["hate"]), ("strict", False), ("panel", "any")):
        with pytest.raises(openai.BadRequestError, match=f"{name}.*v1/check"):
            client.chat.completions.create(model="guard", messages=[_user(OK)], extra_body={name: value})  # type: ignore[list-item]
        with pytest.raises(openai.BadRequestError, match=f"{name}.*v1/check"):
            client.moderations.create(input=OK, extra_body={name: value})
    answer: Any = client.moderations.create(input=[OK, HARM], extra_body={"user": "u", "temprature": 1})
    assert [result.guardpass["ignored"] for result in answer.results] == [["user", "temprature"]] * 2


def test_a_server_told_to_allow_what_is_no_text_lists_it(make: Client, guard: Guard) -> None:
    client = make(unjudged="allow")
    parts: Any = [IMAGE, {"type": "text", "text": HARM}]
    chat: Any = client.chat.completions.create(model="guard", messages=[_user(parts)])  # type: ignore[list-item]
    assert chat.guardpass["ignored"] == ["messages[0].content[0]"]
    assert chat.guardpass["score"] == pytest.approx(guard.check(HARM).score, abs=1e-6)
    result: Any = client.moderations.create(input=parts).results[0]
    assert result.guardpass["ignored"] == ["input[0]"]
    for alone in ([IMAGE], [IMAGE, IMAGE]):  # there is nothing to judge
        with pytest.raises(openai.BadRequestError, match="image_url"):
            client.moderations.create(input=alone)  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="image_url"):
        make().moderations.create(input=parts)


_PARTS = st.sampled_from([{"type": "text", "text": "<>"}, {"type": "refusal", "refusal": "<>"}, IMAGE, {"type": 5}, 5])
_MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from([*ROLES, "user", "assistant", "tool"])},
    optional={
        "content": st.none() | st.just("<>") | st.lists(_PARTS, max_size=3),
        "refusal": st.none() | st.just("<>"),
        "tool_calls": st.none() | st.just([_call("<>")]) | st.just([5]),
        "extra": st.integers(min_value=1),
    },
)


@settings(max_examples=300)
@given(st.lists(_MESSAGES, max_size=5))
def test_every_text_of_any_messages_is_judged_or_its_place_listed(messages: list[dict[str, Any]]) -> None:
    numbered = [json.loads(json.dumps(message).replace("<>", f"<{index}>")) for index, message in enumerate(messages)]
    try:
        (text, reply), left = judged_messages(numbered)
    except InputError:
        return
    listed = left.ignored()
    for index, message in enumerate(numbered):
        place, count = f"messages[{index}]", json.dumps(message).count(f"<{index}>")
        if place not in listed:
            assert (text + (reply or "")).count(f"<{index}>") == count
            assert ("extra" in message) == (f"{place}.extra" in listed)
            parts = message.get("content") if isinstance(message.get("content"), list) else []
            for number, part in enumerate(parts or ()):
                known = isinstance(part, dict) and part["type"] in ("text", "refusal")
                assert known != (f"{place}.content[{number}]" in listed)
