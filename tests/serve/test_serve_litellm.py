"""LiteLLM's guardrail API: nothing is passed that was not judged, and no chat is too long for an answer."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from guardpass import Guard
from guardpass.serve.app import make_app
from guardpass.serve.host import Host
from guardpass.serve.json_text import text_in
from guardpass.serve.keys import Keys
from guardpass.serve.metrics import Metrics
from guardpass.serve.settings import Settings

HARM = '친구의 물건을 "몰래"\n훔치는 법 🗡'
PATH = "/beta/litellm_basic_guardrail_api"
IMAGE = "data:image/png;base64,iVBORw0KGgo="


@dataclass
class Server:
    """The application in this process, and every item its guard was given."""

    client: TestClient
    metrics: Metrics
    items: list[tuple[str, str | None]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def ask(self, **body: Any) -> dict[str, Any]:
        answer = self.client.post(PATH, json={"input_type": "request", **body})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def unjudged(self, kind: str, outcome: str) -> float:
        labels = {"kind": kind, "outcome": outcome}
        return self.metrics.registry.get_sample_value("guardpass_unjudged_total", labels) or 0.0


@pytest.fixture
def make(two_sided: Path) -> Iterator[Callable[..., Server]]:
    guards: list[Guard] = []

    def make(**settings: Any) -> Server:
        guard = Guard.load(two_sided, threads=1)
        guards.append(guard)
        host, metrics = Host(Settings(("guard",), **settings), {"guard": guard}, "ready"), Metrics()
        server = Server(TestClient(make_app(host, Keys(None), metrics)), metrics)
        submit = guard.submit_many

        def seen(items: Any, **options: Any) -> Any:
            server.items += items
            server.sizes.append(len(items))
            return submit(items, **options)

        guard.submit_many = seen  # type: ignore[method-assign]
        return server

    yield make
    for guard in guards:
        guard.close(30)


def _call(arguments: object) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": "run", "arguments": arguments}}


def _tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "run", **function}}


def _said(role: str, **message: Any) -> dict[str, Any]:
    return {"structured_messages": [{"role": role, **message}]}


@pytest.mark.parametrize("kind", ["request", "response"])
@pytest.mark.parametrize(
    "body",
    [
        {"texts": [HARM]},
        {"tool_calls": [_call(json.dumps({"cmd": HARM}))]},  # as \uXXXX
        {"tool_calls": [_call(json.dumps({"cmd": HARM}, ensure_ascii=False))]},
        {"tool_calls": [_call({"cmd": ["a", {"b": HARM}]})]},
        {"tool_calls": [_call(json.dumps({"cmd": json.dumps({"inner": json.dumps([HARM])})}))]},
        {"tool_calls": [_call(json.dumps({HARM: 1}))]},
        {"tool_calls": [_call('{"cmd": 1, "cmd": ' + json.dumps(HARM) + ', "cmd": 2}')]},
        {"tool_calls": [{"id": "1", "type": "custom", "custom": {"name": "sh", "input": HARM}}]},
        {"tool_calls": [{"id": "1", "function": {"name": HARM, "arguments": ""}, "custom": {"name": "x"}}]},
        {"tools": [_tool(description=HARM)]},
        {"tools": [_tool(parameters={"type": "object", "properties": {"a": {"type": "string", "description": HARM}}})]},
        {"tools": [_tool(parameters={"properties": {"a": {"enum": ["x", HARM]}}})]},
        {"tools": [{"type": "mcp", "server_label": HARM}]},
    ],
)
def test_every_text_is_judged(make: Callable[..., Server], body: dict[str, Any], kind: str) -> None:
    server = make()
    answer = server.ask(**body, input_type=kind, additional_provider_specific_params={"threshold": 0.0})
    assert answer["action"] == "BLOCKED"
    assert any(HARM in (text if response is None else response) for text, response in server.items)
    assert {response is None for _, response in server.items} == {kind == "request"}


@pytest.mark.parametrize(
    "body",
    [
        _said("user", content=HARM),
        _said("user", content=[{"type": "text", "text": "a"}, {"type": "text", "text": HARM}]),
        _said("assistant", content=None, refusal=HARM),
        _said("assistant", content=None, tool_calls=[_call(json.dumps({"cmd": HARM}))]),
        _said("assistant", content=None, function_call={"name": "run", "arguments": json.dumps({"cmd": HARM})}),
        _said("assistant", content="a", reasoning_content=HARM),
        _said("assistant", content=[{"type": "tool_use", "id": "t", "name": "run", "input": {"cmd": HARM}}]),
        _said("user", content=[{"type": "tool_result", "content": [{"type": "text", "text": HARM}]}]),
        _said("tool", content=HARM, tool_call_id="call_1"),
    ],
)
def test_every_text_of_the_messages_is_judged(make: Callable[..., Server], body: dict[str, Any]) -> None:
    server = make()
    assert server.ask(**body, texts=["a"])["action"] in ("NONE", "BLOCKED")
    assert any(HARM in text for text, _ in server.items)
    assert len({text for text, _ in server.items}) == len(server.items)  # each once, wherever it stands


def test_arguments_that_are_no_json_are_judged_with_their_escapes_decoded(make: Callable[..., Server]) -> None:
    server = make()
    server.ask(tool_calls=[_call('{"cmd": "\\uce5c\\uad6c \\ud83d\\udde1 \\ud800", ')])
    assert server.items == [('run\n{"cmd": "친구 🗡 \\ud800", ', None)]


NOT_TEXT = [
    ({"images": [IMAGE]}, "images[0]", "image"),
    (_said("user", content=[{"type": "image_url", "image_url": {"url": IMAGE}}]), "content[0]", "image"),
    (_said("user", content=[{"type": "input_audio", "input_audio": {}}]), "content[0]", "audio"),
    (_said("user", content=[{"type": "file", "file": {"file_id": "f"}}]), "content[0]", "file"),
    (_said("user", content=[{"type": "hologram", "text": 5}]), "content[0]", "part"),
    (_said("user", content=[5]), "content[0]", "part"),
    (_said("user", content={"no": "type"}), "content", "part"),
    (_said("assistant", audio={"id": "audio_1"}), "audio", "audio"),
    ({"tool_calls": [{"id": "1"}]}, "tool_calls[0]", "tool_call"),
]


@pytest.mark.parametrize(("body", "place", "kind"), NOT_TEXT)
def test_what_is_no_text_is_blocked_or_allowed_and_said(
    make: Callable[..., Server], capsys: pytest.CaptureFixture[str], body: dict[str, Any], place: str, kind: str
) -> None:
    blocked = make().ask(texts=[], **body)
    assert blocked["action"] == "BLOCKED"
    assert place in blocked["blocked_reason"]
    assert f'"unjudged": ["{kind}: block"]' in capsys.readouterr().err
    server = make(unjudged="allow")
    allowed = server.ask(texts=["안녕"], **body, additional_provider_specific_params={"threshold": 1.0})
    assert allowed["action"] == "NONE"
    assert [each for each in allowed["guardpass"]["ignored"] if each.endswith(place)]
    assert server.unjudged(kind, "allow") == 1
    assert server.items == [("안녕", None)]
    assert f'"unjudged": ["{kind}: allow"]' in capsys.readouterr().err


def test_a_chat_of_any_number_of_texts_is_judged_in_batches(make: Callable[..., Server], guard: Guard) -> None:
    every = [f"{number}번째 말" for number in range(150)]
    server = make(max_items=8)
    harmless = server.ask(texts=every * 2, additional_provider_specific_params={"threshold": 1.0})
    assert harmless["action"] == "NONE"
    assert [text for text, _ in server.items] == every  # each once
    assert max(server.sizes) == 8
    worst = max(every, key=lambda text: guard.check(text).score)
    server.items.clear()
    last = sorted(every, key=lambda text: text == worst)
    found = server.ask(texts=last, additional_provider_specific_params={"threshold": guard.check(worst).score - 1e-7})
    assert found["action"] == "BLOCKED"
    assert server.items[-1] == (worst, None)


@pytest.mark.parametrize("declared", [True, False])
def test_beyond_max_body_a_chat_is_blocked_with_the_reason(make: Callable[..., Server], declared: bool) -> None:
    server = make(max_body=1000)
    body = json.dumps({"input_type": "request", "texts": ["x" * 2000]}).encode()
    sent: Any = body if declared else iter([body[:500], body[500:]])
    answer = server.client.post(PATH, content=sent, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["action"]) == (200, "BLOCKED")
    assert "1000 bytes" in answer.json()["blocked_reason"]
    assert server.unjudged("body_too_large", "block") == 1
    assert server.client.post("/v1/check", json={"text": "x" * 2000}).status_code == 413


@pytest.mark.parametrize(("text", "kind"), [("lorem " * 45000, "text_too_long"), ("\ud800", "bad_text")])
def test_a_text_that_cannot_be_judged_is_blocked_whatever_is_allowed(
    make: Callable[..., Server], text: str, kind: str
) -> None:
    for settings in ({}, {"unjudged": "allow", "on_error": "allow"}):
        server = make(**settings)
        raw = json.dumps({"input_type": "request", "texts": ["안녕", text]})
        answer = server.client.post(PATH, content=raw, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["action"]) == (200, "BLOCKED")
        assert answer.json()["blocked_reason"]
        assert server.unjudged(kind, "block") == 1


def test_parameters_count_or_are_refused_by_name(make: Callable[..., Server]) -> None:
    server = make()
    right: list[tuple[dict[str, Any], str]] = [
        ({"threshold": 0.0}, "BLOCKED"),
        ({"threshold": 1.0}, "NONE"),
        ({"threshold": {"verdict": 0.0}}, "BLOCKED"),
        ({"threshold": {"verdict": 1.0}, "strict": False, "priority": 1, "alpha": 0.5, "temperature": 2}, "NONE"),
        ({"panel": "any", "threshold": 0.0}, "BLOCKED"),
        ({"panel": "all", "threshold": 1.0}, "NONE"),
    ]
    for params, action in right:
        assert server.ask(texts=["안녕"], additional_provider_specific_params=params)["action"] == action, params
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"treshold": 0.4}, "treshold"),
        ({"policies": ["hate"]}, "policies"),
        ({"policies": []}, "policies"),
        ({"threshold": {"nothing": 0.4}}, "nothing"),
        ({"strict": "no"}, "strict"),
        ({"threshold": 2}, "threshold"),
        ({"panel": "some"}, "some"),
        ({"panel": "any", "guard": "guard"}, "both"),
        ({"x" * 500 + "\ud800": 1}, "xxx"),
    ]
    for params, says in wrong:
        body = {"input_type": "request", "texts": ["안녕"], "additional_provider_specific_params": params}
        answer = server.client.post(PATH, content=json.dumps(body), headers={"content-type": "application/json"})
        assert answer.status_code == 400
        assert says in answer.json()["error"]["message"]
        assert len(answer.text) < 600
    top = server.client.post(PATH, json={"input_type": "request", "texts": ["a"], "threshold": 0.4})
    assert top.status_code == 400
    assert "additional_provider_specific_params" in top.json()["error"]["message"]
    unknown = server.client.post("/v1/check", json={"text": "a", "treshold": 0.4})
    assert "treshold" in unknown.json()["error"]["message"]


def test_what_litellm_sends_of_itself_is_listed(make: Callable[..., Server]) -> None:
    sent = {
        "texts": ["안녕"],
        "litellm_call_id": "1",
        "litellm_trace_id": None,
        "model": "gpt-4",
        "images": None,
        "request_data": {"user_api_key_hash": "x"},
        "request_headers": {"a": "b"},
        "litellm_version": "1.80",
        "structured_messages": [{"role": "system", "content": "질문"}, {"role": "user", "content": HARM}],
    }
    server = make()
    listed = ["litellm_call_id", "model", "request_data", "request_headers", "litellm_version"]
    assert server.ask(**sent)["guardpass"]["ignored"] == listed
    server.items.clear()
    replied = server.ask(**sent, input_type="response")
    assert server.items == [(HARM, "안녕")]  # the reply, to its question
    assert replied["guardpass"]["ignored"] == ["structured_messages[0]", *listed]
    many = server.ask(texts=[], **{f"key{number}": 1 for number in range(1000)})["guardpass"]["ignored"]
    assert (len(many), many[-1]) == (101, "and 900 more")


_WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters='\\{["'), min_size=1).filter(str.strip)
_JSON = st.recursive(
    _WORDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=3), max_leaves=8
)


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from _leaves(each)


@given(_JSON, st.integers(0, 3), st.booleans())
def test_every_word_of_any_json_is_in_its_text(value: object, deep: int, ascii: bool) -> None:
    written = value
    for _ in range(deep):
        written = json.dumps(written, ensure_ascii=ascii)
    found = text_in(written)
    assert all(leaf in found for leaf in _leaves(value))


@given(st.text() | st.text(st.sampled_from('\\ud8dc0"{}[]:,"a \n')))
def test_any_string_has_a_text_that_can_be_judged(text: str) -> None:
    text_in(text).encode()
    text_in({text: [text]}, ("type",)).encode()


def test_deep_and_huge_json_is_text_too() -> None:
    for text in ("[" * 100000, "[" * 900 + "1" + "]" * 900, "9" * 10000, '{"a": ' + "9" * 10000 + "}", "NaN", "[NaN]"):
        assert text_in(text)
