"""The answers of a guard with categories and a literal text of its own, as OpenAI's client gets them."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx
import openai
import pytest

from guardpass import Guard, InputError
from guardpass.answer_text import answer_ids
from guardpass.format.manifest import MANIFEST
from guardpass.format.manifest_io import dumps
from guardpass.serve.app import make_app
from guardpass.serve.host import Host
from guardpass.serve.keys import Keys
from guardpass.serve.metrics import Metrics
from guardpass.serve.settings import Settings

from ..support.helpers import texts
from ..support.parsers import nemo_is_content_safe, nemo_llama_guard, qwen3guard
from ..support.twins import Twins


@pytest.fixture(scope="module")
def qwen(twins: Twins) -> Guard:
    return Guard.load(twins.guard("qwen3guard-gen-0.6b"), threads=1)


class Client:
    """OpenAI's own, whose server is in this process."""

    def __init__(self, guard: Guard) -> None:
        self._app = make_app(Host(Settings(("qwen",)), {"qwen": guard}, "ready"), Keys(None), Metrics())

    def chat(self, model: str, text: str, reply: str | None = None) -> Any:
        return self._ask(lambda client: client.chat.completions.create(model=model, messages=_messages(text, reply)))

    def chunks(self, model: str, text: str) -> list[Any]:
        async def collect(client: openai.AsyncOpenAI) -> list[Any]:
            stream = await client.chat.completions.create(model=model, messages=_messages(text), stream=True)
            return [chunk async for chunk in stream]

        return cast(list[Any], self._ask(collect))

    def moderations(self, model: str, given: list[str]) -> Any:
        return self._ask(lambda client: client.moderations.create(model=model, input=given))

    def post(self, path: str, body: object) -> Any:
        return self._ask(lambda client: client.post(f"http://test{path}", cast_to=object, body=body))

    def _ask(self, asked: Callable[[openai.AsyncOpenAI], Awaitable[Any]]) -> Any:
        async def go() -> Any:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self._app)) as http:
                return await asked(
                    openai.AsyncOpenAI(base_url="http://test/v1", api_key="none", max_retries=0, http_client=http)
                )

        return asyncio.run(go())


@pytest.fixture
def client(qwen: Guard) -> Client:
    return Client(qwen)


def _messages(text: str, reply: str | None = None) -> list[Any]:
    said = [{"role": "user", "content": text}]
    return said if reply is None else [*said, {"role": "assistant", "content": reply}]


def test_moderations_name_qwen3guards_categories(client: Client, qwen: Guard) -> None:
    given = texts(20, seed=1)
    for text, one in zip(given, client.moderations("qwen", given).results, strict=True):
        verdict = qwen.check(text)
        category = verdict.fields["category"]
        assert one.flagged is not verdict.safe
        openais = {label.name: label.openai for label in qwen.manifest.labels}
        expected = openais[category.label] if category else None
        categories, scores = one.categories.to_dict(), one.category_scores.to_dict()
        assert {name for name, yes in categories.items() if yes} == ({expected} if expected else set())
        assert scores["illicit"] > 0
        assert sum(scores.values()) < verdict.score + 1e-6  # no more than unsafe at all


def test_chat_writes_labels_whole_and_counts_them(client: Client, qwen: Guard) -> None:
    seen = set()
    for number, text in enumerate(texts(12, seed=2)):
        reply = "네" if number % 2 else None
        found, verdict = client.chat("qwen", text, reply), qwen.check(text, reply)
        content = found.choices[0].message.content
        assert content == qwen.answer_text(verdict)
        assert qwen3guard(content) == {name: field.label for name, field in verdict.fields.items() if field}
        assert found.usage.completion_tokens == len(answer_ids(qwen.manifest, verdict))
        seen.add(content)
    assert len(seen) > 1


def test_the_style_is_read_by_nemos_rails_body_and_stream(client: Client, qwen: Guard) -> None:
    for text in texts(12, seed=3):
        safe, chunks = qwen.check(text).safe, client.chunks("qwen:safe-unsafe", text)
        content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert nemo_llama_guard(content) == nemo_is_content_safe(content) == safe
        found = client.chat("qwen:safe-unsafe", text)
        assert {found.model, *(chunk.model for chunk in chunks)} == {"qwen:safe-unsafe"}
        assert found.choices[0].message.content == content
        assert found.usage == client.chat("qwen", text).usage


def test_a_style_is_for_the_chat_api_alone(client: Client) -> None:
    styled = "qwen:safe-unsafe"
    litellm = {"texts": ["x"], "input_type": "request", "additional_provider_specific_params": {"guard": styled}}
    with pytest.raises(openai.NotFoundError, match="/v1/chat/completions alone"):
        client.moderations(styled, ["x"])
    with pytest.raises(openai.NotFoundError, match="/v1/chat/completions alone"):
        client.post("/v1/check", {"text": "x", "guard": styled})
    with pytest.raises(openai.NotFoundError, match="/v1/chat/completions alone"):
        client.post("/beta/litellm_basic_guardrail_api", litellm)
    for model in ("qwen:latest", "qwen:"):
        with pytest.raises(openai.NotFoundError, match="NAME:safe-unsafe"):
            client.chat(model, "x")
    with pytest.raises(openai.NotFoundError, match="no guard has that name"):
        client.chat("other:safe-unsafe", "x")


def test_a_guards_name_has_no_colon(two_sided: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="NAME="):
        Settings((f"llama-guard3:8b={two_sided}",)).check()
    Settings((f"llama-guard3={two_sided}:8b",)).check()
    guard = tmp_path / "guard"
    shutil.copytree(two_sided, guard)
    manifest = replace(Guard.load(guard).manifest, name="llama-guard3:8b")
    (guard / MANIFEST).write_bytes(dumps(manifest))
    with pytest.raises(InputError, match=r"llama-guard3:8b, and a colon .* NAME="):
        Host(Settings((str(guard),))).load()
    host = Host(Settings((f"llama-guard3={guard}",)))
    host.load()
    assert list(host.guards) == ["llama-guard3"]
    host.close(1)
