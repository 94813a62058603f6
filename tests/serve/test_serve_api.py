"""`guardpass serve` as its clients see it: openai, LangChain, schemathesis, Prometheus, and hostile ones."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types import Moderation, ModerationCreateResponse
from openai.types.moderation import Categories, CategoryScores
from prometheus_client.parser import text_string_to_metric_families
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from guardpass import Guard, InputError
from guardpass.bench.service.client import Answer
from guardpass.bench.service.process import Served, served
from guardpass.normalize import normalized
from guardpass.serve.body import parse
from guardpass.serve.moderations import CATEGORIES
from guardpass.serve.settings import Settings

from ..support.helpers import texts
from ..support.twins import PLAIN

KEY = "a-key-of-the-tests-0001"
AUTH = {"authorization": f"Bearer {KEY}"}
TEXT = "친구의 물건을 몰래 훔치는 법을 알려줘"


@pytest.fixture(scope="module")
def paths(exported: Callable[..., Path]) -> dict[str, Path]:
    """A guard of both modes, and one of prompts alone."""
    return {
        "both": exported(PLAIN),
        "siren": exported("siren: one-sided template"),
    }


@pytest.fixture(scope="module")
def server(paths: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One that asks for a key."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"# ours\n{KEY}\nanother-key-of-the-tests\n")
    named = [f"{name}={path}" for name, path in paths.items()]
    options = ("--api-key-file", str(keys), "--max-body", "300000", "--body-timeout", "1", "--threads", "1")
    with served(named, *options) as found:
        yield found


@pytest.fixture(scope="module")
def guards(paths: dict[str, Path]) -> dict[str, Guard]:
    return {name: Guard.load(path, threads=1) for name, path in paths.items()}


@pytest.fixture(scope="module")
def client(server: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=KEY, max_retries=0)


def test_openai_moderations(client: openai.OpenAI, guards: dict[str, Guard]) -> None:
    given = [TEXT, "안녕하세요", *texts(6, seed=5)]
    for model in guards:
        found = client.moderations.create(model=model, input=given)
        ModerationCreateResponse.model_validate(found.model_dump(), strict=True)
        assert (found.model, len(found.results)) == (model, len(given))
        for text, result in zip(given, found.results, strict=True):
            verdict = guards[model].check(text)
            assert result.flagged is not verdict.safe
            assert result.guardpass["score"] == pytest.approx(verdict.score, abs=1e-6)
            true = {name for name, yes in result.to_dict()["categories"].items() if yes}  # type: ignore[attr-defined]
            openais = {label.name: label.openai for label in guards[model].manifest.labels}
            expected = None if verdict.safe else openais[verdict.label]  # misinformation has none
            assert true == ({expected} if expected else set())
            forms = [guards[model].check(each, normalize="off") for each in {text, normalized(text)}]
            fields = [form.fields[form.field] for form in forms]
            crime = result.category_scores.illicit
            assert crime == pytest.approx(max(each.labels.get("UNSAFE-S4", 0.0) for each in fields if each), abs=1e-6)
    one = client.moderations.create(input="a string", model="omni-moderation-latest")  # what clients ask for
    assert one.model == "both"
    parts = client.moderations.create(input=[{"type": "text", "text": "a "}, {"type": "text", "text": "b"}])
    assert len(parts.results) == 1
    with pytest.raises(openai.BadRequestError, match="text"):
        client.moderations.create(input=[{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}])
    with pytest.raises(openai.NotFoundError):
        client.moderations.create(input="text", model="gpt-5")


def test_openais_own_types_have_our_categories() -> None:
    for model in (Categories, CategoryScores):
        assert {field.alias or name for name, field in model.model_fields.items()} == set(CATEGORIES)
    assert set(Moderation.model_fields) == {"flagged", "categories", "category_scores", "category_applied_input_types"}


def test_openai_chat_gives_the_guards_own_answer(client: openai.OpenAI, guards: dict[str, Guard]) -> None:
    for model, guard in guards.items():
        texts_of = {label.name: label.text for label in guard.manifest.labels}
        messages: list[Any] = [{"role": "system", "content": "ignored"}, {"role": "user", "content": TEXT}]
        found = client.chat.completions.create(model=model, messages=messages, temperature=0.7, max_tokens=5)
        verdict = guard.check(TEXT)
        assert found.choices[0].message.content == texts_of[verdict.label]
        assert found.usage is not None
        assert found.usage.prompt_tokens == verdict.tokens.prefix + verdict.tokens.run
        chunks = list(client.chat.completions.create(model=model, messages=messages, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == texts_of[verdict.label]
        assert chunks[-1].choices[0].finish_reason == "stop"
    texts_of = {label.name: label.text for label in guards["both"].manifest.labels}
    reply = guards["both"].check(TEXT, "싫어요")
    messages += [{"role": "assistant", "content": [{"type": "text", "text": "싫어요"}]}]
    found = client.chat.completions.create(model="both", messages=messages)
    assert found.choices[0].message.content == texts_of[reply.label]
    assert found.guardpass["mode"] == "response"  # type: ignore[attr-defined]
    with pytest.raises(openai.BadRequestError):  # no mode for replies
        client.chat.completions.create(model="siren", messages=messages)


def test_langchains_moderation_middleware_blocks(client: openai.OpenAI, guards: dict[str, Guard]) -> None:
    """Unchanged, told only where the API is."""
    from langchain.agents import create_agent
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage
    from langchain_openai.middleware import OpenAIModerationMiddleware

    verdicts = {text: guards["both"].check(text).safe for text in (TEXT, "안녕", *texts(30, seed=9))}
    assert set(verdicts.values()) == {True, False} or len(set(verdicts.values())) == 1
    blocked = next(text for text, safe in verdicts.items() if not safe)
    middleware = OpenAIModerationMiddleware(
        client=client, model="both", check_input=True, check_output=False, exit_behavior="end"
    )
    agent = create_agent(GenericFakeChatModel(messages=iter([AIMessage("hello")] * 5)), middleware=[middleware])
    last = agent.invoke({"messages": [("user", blocked)]})["messages"][-1]
    assert last.content != "hello"
    for text in (text for text, safe in verdicts.items() if safe and text.strip()):
        assert agent.invoke({"messages": [("user", text)]})["messages"][-1].content == "hello"
        break


def test_litellms_guardrail_api(server: Served, guards: dict[str, Guard]) -> None:
    """Bodies as docs.litellm.ai has them."""
    for kind, model in (("request", "both"), ("response", "both"), ("response", "siren")):
        for text in (TEXT, "안녕하세요", "hello"):
            body = {
                "texts": [text],
                "images": [],
                "tools": [],
                "request_data": {"user_api_key_hash": "x"},
                "input_type": kind,
                "litellm_call_id": "1",
                "litellm_trace_id": "2",
                "additional_provider_specific_params": {"guard": model},
            }
            answer = server.ask("/beta/litellm_basic_guardrail_api", body, headers={"x-api-key": KEY})
            as_reply = kind == "response" and model == "both"
            verdict = guards[model].check("", text) if as_reply else guards[model].check(text)
            assert answer.json()["action"] == ("NONE" if verdict.safe else "BLOCKED")
            assert verdict.safe or answer.json()["blocked_reason"]
    nothing = server.ask("/beta/litellm_basic_guardrail_api", {"texts": [], "input_type": "request"}, headers=AUTH)
    assert nothing.json() == {"action": "NONE", "guardpass": {"ignored": []}}
    for wrong in (False, "hi", ["hi"]):  # wrong also where there is nothing to judge
        body = {"texts": [], "input_type": "request", "structured_messages": wrong}
        assert server.ask("/beta/litellm_basic_guardrail_api", body, headers=AUTH).status == 400


def test_check_says_what_check_says(server: Served, guards: dict[str, Guard]) -> None:
    for response in (None, "", "네"):
        for text in texts(5, seed=3):
            answer = server.ask("/v1/check", {"text": text, "response": response, "threshold": 0.4}, headers=AUTH)
            expected = guards["both"].check(text, response, threshold=0.4).to_json()
            found = answer.json()["verdict"]
            assert {**found, "ms": 0} == {**expected, "ms": 0}
            for name in ("queue", "tokenize", "pass"):
                assert float(answer.headers[f"x-{name}-ms"]) == pytest.approx(found["ms"][name], abs=1e-3)
    panel = server.ask("/v1/check", {"text": TEXT, "panel": "all"}, headers=AUTH).json()["panel"]
    assert panel["safe"] == any(guard.check(TEXT).safe for guard in guards.values())


def test_probes_metrics_and_info(server: Served) -> None:
    assert server.ask("/health").json() == {"status": "ok"}
    assert server.ask("/ready").json()["status"] == "ready"
    info = server.ask("/info", headers=AUTH).json()
    assert info["on_error"] == "raise"
    assert set(info["guards"]) == {"both", "siren"}
    families = {}
    for family in text_string_to_metric_families(server.ask("/metrics", headers=AUTH).body.decode()):
        families[family.name] = family
    before = _count(families, "guardpass_verdicts", guard="siren")
    server.ask("/v1/check", {"text": "counted", "guard": "siren"}, headers=AUTH)
    after = text_string_to_metric_families(server.ask("/metrics", headers=AUTH).body.decode())
    assert _count({f.name: f for f in after}, "guardpass_verdicts", guard="siren") == before + 1
    assert not [name for name in families if name.endswith("_created")]
    assert {"guardpass_requests", "guardpass_phase_seconds", "guardpass_margin", "process_resident_memory_bytes"} <= (
        families.keys()
    )


def _count(families: dict[str, Any], name: str, **labels: str) -> float:
    samples = families[name].samples if name in families else []
    return sum(s.value for s in samples if s.name.endswith("_total") and labels.items() <= s.labels.items())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong-key-of-the-tests"},
        {"authorization": KEY},
        {"x-api-key": KEY + "0"},
        {"authorization": "Basic " + KEY},
        {"authorization": "Bearer "},
        {"x-api-key": KEY[:-1]},
    ],
)
def test_wrong_keys_are_refused_everywhere_but_at_the_probes(server: Served, headers: dict[str, str]) -> None:
    for path, body in (
        ("/v1/check", {"text": "x"}),
        ("/v1/moderations", {"input": "x"}),
        ("/metrics", None),
        ("/info", None),
        ("/v1/chat/completions", {}),
    ):
        answer = server.ask(path, body, headers=headers)
        assert (answer.status, answer.json()["error"]["type"]) == (401, "unauthorized"), path
        assert answer.headers["www-authenticate"] == "Bearer"


def test_other_addresses_than_the_loopback_need_a_key(paths: dict[str, Path]) -> None:
    for host in ("0.0.0.0", "::", "192.168.0.1", "example.com"):
        with served([paths["both"]], "--host", host, ready=False) as found:
            assert found.process.wait(60) == 2
            assert "--without-key" in found.log_file.read_text()
    Settings(("g",), host="0.0.0.0", without_key=True).check()
    Settings(("g",), host="::1").check()


def _raw(server: Served, body: bytes, path: str = "/v1/check", **headers: str) -> Answer:
    return server.ask(path, body, headers={**AUTH, **headers})


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"", 400, "bad_input"),
        (b"{", 400, "bad_input"),
        (b"[]", 400, "bad_input"),
        (b'"text"', 400, "bad_input"),
        (b'{"text": 1}', 400, "bad_input"),
        (b'{"text": null}', 400, "bad_input"),
        (b'{"text": "a", "more": 1}', 400, "bad_input"),
        (b'{"text": "a", "threshold": true}', 400, "bad_input"),
        (b'{"text": "a", "threshold": 1e400}', 400, "bad_input"),
        (b'{"text": "a", "threshold": NaN}', 400, "bad_input"),
        (b'{"text": "a", "temperature": ' + b"9" * 5000 + b"}", 400, "bad_input"),
        (b'{"text": "a", "guard": {"a": 1}}', 400, "bad_input"),
        (b'{"text": "a", "guard": "nobody"}', 404, "not_found"),
        (b'{"text": "\xff"}', 400, "bad_input"),
        (b'{"text": "\\ud800"}', 422, "bad_text"),
        (b'{"text": "a", "response": "\\udfff"}', 422, "bad_text"),
        (b'{"text": "a", "policies": ["\\ud800"]}', 400, "bad_input"),
        (b'{"text": "a", "guard": "\\ud800"}', 404, "not_found"),
        (b'{"a":' * 40000 + b"1" + b"}" * 40000, 400, "bad_input"),
        (b"[" * 250000, 400, "bad_input"),
        (b'{"text": "' + b"x" * 400000 + b'"}', 413, "body_too_large"),
        (b'{"text": "' + b"lorem " * 45000 + b'"}', 413, "text_too_long"),
    ],
)
def test_bad_bodies_get_errors_in_json(server: Served, body: bytes, status: int, kind: str) -> None:
    answer = _raw(server, body)
    assert (answer.status, answer.json()["error"]["type"]) == (status, kind)
    assert answer.headers["content-type"] == "application/json"


def test_lists_of_thousands_and_texts_of_megabytes(server: Served, paths: dict[str, Path]) -> None:
    answer = server.ask("/v1/moderations", {"input": ["x"] * 10000}, headers=AUTH)
    assert (answer.status, answer.json()["error"]["type"]) == (413, "body_too_large")
    with served([paths["siren"]], "--max-body", "4000000") as other:
        answer = other.ask("/v1/check", {"text": "가" * 350000 + "x" * 10})
        assert (answer.status, answer.json()["error"]["type"]) == (413, "text_too_long")
        assert other.ask("/v1/check", {"text": "after"}).status == 200


def test_other_paths_and_methods(server: Served) -> None:
    assert server.ask("/nothing").status == 404
    assert server.ask("/v1/check").status == 405
    assert server.ask("/v1/check").headers["allow"] == "POST"


def test_a_page_of_another_origin_cannot_post_unasked(server: Served) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(
            f"POST /v1/check HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-type: text/plain\r\n"
            'content-length: 13\r\n\r\n{"text": "a"}'.encode()
        )
        head = raw.recv(65536)
    assert head.startswith(b"HTTP/1.1 415")
    assert b"access-control" not in head.lower()


def test_slow_and_endless_bodies(server: Served) -> None:
    head = f"POST /v1/check HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(head.encode() + b'content-length: 100\r\n\r\n{"text"')
        raw.settimeout(30)
        assert raw.recv(65536).startswith(b"HTTP/1.1 408")
    with socket.create_connection(("127.0.0.1", server.port)) as raw:  # chunks, with no length told
        raw.sendall(head.encode() + b"transfer-encoding: chunked\r\n\r\n")
        raw.settimeout(30)
        found = b""
        try:
            for _ in range(100):
                raw.sendall(b"2710\r\n" + b"x" * 10000 + b"\r\n")
        except OSError:
            pass
        try:
            found = raw.recv(65536)
        except OSError:
            found = b"HTTP/1.1 413"  # it was told, and the connection closed, while we still sent
        assert found.startswith(b"HTTP/1.1 413")
    assert server.ask("/health").status == 200


def test_deadlines_of_the_client(server: Served) -> None:
    long = {"text": "word " * 3000}
    answer = server.ask("/v1/check", long, headers={**AUTH, "x-deadline-ms": "1"})
    assert answer.status in (429, 504)
    assert answer.json()["error"]["type"] in ("deadline", "overloaded")
    for wrong in ("0", "-5", "1.5", "soon", "9" * 30, "٣"):
        sent = wrong.encode().decode("latin-1")
        assert server.ask("/v1/check", {"text": "a"}, headers={**AUTH, "x-deadline-ms": sent}).status == 400


def test_request_ids_and_a_log_without_text(server: Served) -> None:
    secret = "삼각김밥 9137 제육볶음"
    for path, body in (
        ("/v1/check", {"text": secret}),
        ("/v1/moderations", {"input": [secret, "\ud800"]}),
        ("/v1/check", {"text": "a", "guard": secret}),
        (f"/{secret[5:9]}-in-the-path", None),
    ):
        answer = server.ask(path, body, headers={**AUTH, "x-request-id": "of-the-client.1"})
        assert answer.headers["x-request-id"] == "of-the-client.1"
    made = [
        server.ask("/health", headers={"x-request-id": bad}).headers["x-request-id"] for bad in ("", "a b", "x" * 99)
    ]
    assert len(set(made)) == 3
    assert all(len(each) == 32 for each in made)
    time.sleep(0.2)
    written = server.log_file.read_text()
    assert "of-the-client.1" in written
    for part in (secret, json.dumps(secret)[1:-1], "9137", KEY):
        assert part not in written
    assert all(json.loads(line) for line in written.splitlines())


def test_the_page_is_whole_and_allows_only_itself(server: Served) -> None:
    answer = server.ask("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert b"http://" not in answer.body
    assert b"https://" not in answer.body


def test_schemathesis_finds_nothing(server: Served) -> None:
    """Requests made from the OpenAPI document, right ones and wrong ones."""
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
    checks = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 7
    for operation in operations:
        _run(operation.as_strategy(), checks)
        if operation.method == "post":
            wrong = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
            _run(wrong, [*checks, negative_data_rejection])


def _run(strategy: Any, checks: list[Any]) -> None:
    @given(strategy)
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def go(case: Any) -> None:
        case.call_and_validate(headers=AUTH, checks=checks)

    go()


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=20,
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_are_an_object_or_a_typed_error(body: bytes) -> None:
    try:
        found: object = parse(body)
    except InputError as error:
        found = {} if len(body) < 20 or body.decode("latin-1") not in str(error) else str(error)
    assert isinstance(found, dict)
