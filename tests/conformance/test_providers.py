"""Requirements of every chat provider, tested against its fake. A new provider is one more row.

Each stream is parsed by the official OpenAI SDK's own type, and checked chunk by chunk.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from backends.anthropic import AnthropicBackend
from backends.base import Chat, Timeouts, Upstream
from backends.clouds.bedrock.backend import BedrockBackend
from backends.clouds.vertex.backend import VertexBackend
from backends.google import GoogleBackend
from backends.http import HttpClient
from backends.ollama import OllamaBackend
from backends.openai.backend import OpenAIBackend
from backends.streams.assemble import ChatAssembler
from backends.wire.chat import ChatRequest
from catalog.clouds import NO_ACCOUNT, CloudAccount
from catalog.errors import (
    ContextLengthExceeded,
    FirstByteTimeout,
    IdleTimeout,
    RoundhouseError,
    StreamBroken,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamRateLimited,
    UpstreamRejectedKey,
    UpstreamUnreachable,
)
from catalog.model import Wire
from catalog.types import Json
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.bedrock import FakeBedrock
from tests.fakes.google import FakeGoogle
from tests.fakes.ollama import FakeOllama
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import FakeServer, Fault
from tests.fakes.vertex import PROJECT, REGION, FakeVertex

SENTENCE = "The quick brown fox jumps over the lazy dog."
KEY = "planted-secret-0123456789"
SCHEMA: Json = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "population": {"type": "integer"}},
    "required": ["city", "population"],
    "additionalProperties": False,
}
TOOLS: list[Json] = [
    {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "traffic", "description": "The traffic.", "parameters": SCHEMA}},
]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@dataclass(frozen=True)
class ProviderCase:
    """One provider to test. ``suffix`` follows the fake's origin in ``base_url``.

    ``marks_refusals``: its wire tells a refusal from an answer; ``names_media``: it names a picture's media type.
    """

    name: str
    fake: Callable[[], FakeServer]
    backend: Callable[[HttpClient], Chat]
    model: str
    suffix: str = ""
    overloaded: int = 503
    cloud: CloudAccount = NO_ACCOUNT
    wire: Wire = "chat"
    marks_refusals: bool = True
    names_media: bool = True


BEDROCK = CloudAccount(region="us-east-1")
VERTEX = CloudAccount(region=REGION, project=PROJECT)
PROVIDERS = [
    ProviderCase("openai", lambda: FakeOpenAI(key=KEY), OpenAIBackend, "fake-chat", "/v1"),
    ProviderCase(
        "openai-responses", lambda: FakeOpenAI(key=KEY), OpenAIBackend, "fake-chat", "/v1", wire="responses"
    ),
    ProviderCase("anthropic", lambda: FakeAnthropic(key=KEY), AnthropicBackend, "claude-sonnet-5", overloaded=529),
    ProviderCase("anthropic-budgets", lambda: FakeAnthropic(key=KEY), AnthropicBackend, "claude-haiku-4-5"),
    ProviderCase(
        "ollama", lambda: FakeOllama(key=KEY), OllamaBackend, "fake-chat", marks_refusals=False, names_media=False
    ),
    ProviderCase("google", lambda: FakeGoogle(key=KEY), GoogleBackend, "gemini-3-flash", "/v1beta"),
    ProviderCase("google-budgets", lambda: FakeGoogle(key=KEY), GoogleBackend, "gemini-2.5-flash", "/v1beta"),
    *(
        ProviderCase(f"vertex-{maker}", lambda: FakeVertex(key=KEY), VertexBackend, model, cloud=VERTEX)
        for maker, model in (
            ("gemini", "gemini-3-flash"),
            ("claude", "claude-sonnet-5"),
            ("open", "meta/llama-4-maas"),
        )
    ),
    *(
        ProviderCase(
            f"bedrock-{name}",
            lambda: FakeBedrock(key=KEY),
            BedrockBackend,
            model,
            names_media=name != "converse",
            cloud=BEDROCK,
        )
        for name, model in (
            ("claude", "us.anthropic.claude-sonnet-5-v1:0"),
            ("claude-budgets", "anthropic.claude-haiku-4-5-v1:0"),
            ("converse", "us.amazon.nova-pro-v1:0"),
        )
    ),
]


class Door:
    """One provider: its fake, its backend and its address."""

    def __init__(self, provider: ProviderCase, fake: FakeServer, http: HttpClient) -> None:
        self.provider = provider
        self.fake = fake
        self.backend = provider.backend(http)

    def upstream(self, *, key: str = KEY, **times: float) -> Upstream:
        return Upstream(
            endpoint=self.provider.name,
            protocol=self.provider.name.partition("-")[0],
            base_url=self.fake.origin + self.provider.suffix,
            model=self.provider.model,
            api_key=key,
            wire=self.provider.wire,
            reasons=True,
            timeouts=Timeouts(**times),
            cloud=self.provider.cloud,
        )

    async def chunks(self, *, upstream: Upstream | None = None, **fields: Any) -> list[Json]:
        body = {"model": "m", "messages": [{"role": "user", "content": "Say it."}], **fields}
        request = ChatRequest.model_validate(body)
        async with aclosing(self.backend.chat(upstream or self.upstream(), request)) as stream:  # type: ignore[type-var]
            return [chunk async for chunk in stream]

    async def answer(self, **fields: Any) -> Json:
        assembler = ChatAssembler()
        for chunk in await self.chunks(**fields):
            ChatCompletionChunk.model_validate(chunk)
            assembler.add(chunk)
        document = assembler.result()
        ChatCompletion.model_validate(document)
        return document

    async def says(self, **fields: Any) -> Json:
        answer = await self.answer(**fields)
        choice: Json = answer["choices"][0]
        return {**choice["message"], "finish_reason": choice["finish_reason"]}


@pytest.fixture(params=PROVIDERS, ids=lambda provider: provider.name)
async def door(request: pytest.FixtureRequest) -> AsyncIterator[Door]:
    provider: ProviderCase = request.param
    async with provider.fake() as fake, HttpClient() as http:
        yield Door(provider, fake, http)


async def test_a_stream_has_a_role_text_one_finish_reason_and_then_usage(door: Door) -> None:
    chunks = await door.chunks()
    parsed = [ChatCompletionChunk.model_validate(chunk) for chunk in chunks]
    *spoken, last = parsed
    assert spoken[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in spoken) == SENTENCE
    assert [c.choices[0].finish_reason for c in spoken if c.choices[0].finish_reason] == ["stop"]
    assert spoken[-1].choices[0].finish_reason == "stop"
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.prompt_tokens > 0
    assert last.usage.completion_tokens > 0
    assert last.usage.total_tokens == last.usage.prompt_tokens + last.usage.completion_tokens
    assert len({chunk.id for chunk in parsed}) == 1


async def test_a_conversation_with_system_messages_and_neighbours_of_one_role_is_taken(door: Door) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": "One."},
        {"role": "user", "content": [{"type": "text", "text": "Two."}]},
        {"role": "assistant", "content": "Three."},
        {"role": "assistant", "content": "Four."},
        {"role": "user", "content": ""},
        {"role": "user", "content": "Five."},
    ]
    assert (await door.says(messages=messages))["content"] == SENTENCE
    sent = json.dumps(door.fake.calls[0].body)
    assert all(word in sent for word in ("Be brief.", "Be kind.", "One.", "Two.", "Three.", "Four.", "Five."))


async def test_an_image_in_a_data_url_arrives_whole(door: Door) -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    content = [{"type": "text", "text": "What is it?"}, image]
    await door.says(messages=[{"role": "user", "content": content}])
    sent = json.dumps(door.fake.calls[0].body)
    assert PIXEL in sent
    assert ("image/png" in sent) == door.provider.names_media


async def test_a_tool_is_called_its_result_goes_back_and_the_answer_comes(door: Door) -> None:
    asked = {"role": "user", "content": "How is Paris?"}
    called = await door.says(messages=[asked], tools=TOOLS, tool_choice="required")
    assert called["finish_reason"] == "tool_calls"
    call = called["tool_calls"][0]
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris", "population": 7}
    assert call["id"]
    messages = [asked, called]
    messages += [{"role": "tool", "tool_call_id": c["id"], "content": "Sunny."} for c in called["tool_calls"]]
    said = await door.says(messages=messages, tools=TOOLS)
    assert said["content"] == SENTENCE
    assert said["finish_reason"] == "stop"
    assert "Sunny." in json.dumps(door.fake.calls[-1].body)


async def test_a_named_tool_is_the_one_that_is_called(door: Door) -> None:
    choice = {"type": "function", "function": {"name": "traffic"}}
    called = await door.says(tools=TOOLS, tool_choice=choice)
    assert [call["function"]["name"] for call in called["tool_calls"]] == ["traffic"]


async def test_tools_that_may_not_be_used_are_not(door: Door) -> None:
    said = await door.says(tools=TOOLS, tool_choice="none")
    assert "tool_calls" not in said
    assert said["content"] == SENTENCE


async def test_an_answer_to_a_schema_is_json_of_that_schema(door: Door) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}}
    said = await door.says(response_format=wanted)
    assert json.loads(said["content"]) == {"city": "Paris", "population": 7}
    assert said["finish_reason"] == "stop"
    assert "tool_calls" not in said


async def test_the_bound_on_tokens_ends_the_answer_with_length(door: Door) -> None:
    said_words = [f"word{at}" for at in range(40)]
    vars(door.fake)["reply"] = " ".join(said_words)
    said = await door.says(max_tokens=20)
    assert said["content"] == " ".join(said_words[:20])
    assert said["finish_reason"] == "length"


async def test_stop_texts_end_the_answer_and_are_not_in_it(door: Door) -> None:
    said = await door.says(stop=["jumps"])
    assert said["content"].strip() == "The quick brown fox"
    assert said["finish_reason"] == "stop"


async def test_a_refusal_is_an_answer_not_an_error(door: Door) -> None:
    door.fake.script(Fault(refuse=True))
    said = await door.says()
    if not door.provider.marks_refusals:
        assert said["content"]
        return
    assert said["refusal"]
    assert not said["content"]


async def test_a_wrong_key_is_the_operators_problem_and_is_not_repeated(door: Door) -> None:
    with pytest.raises(UpstreamRejectedKey) as caught:
        await door.chunks(upstream=door.upstream(key="sk-wrong-key-98765"))
    assert "98765" not in str(caught.value)
    assert caught.value.retryable


async def test_too_many_requests_say_when_to_come_back(door: Door) -> None:
    door.fake.script(Fault(status=429, headers={"retry-after": "34.5"}))
    with pytest.raises(UpstreamRateLimited) as caught:
        await door.chunks()
    assert caught.value.retry_after == 34.5


async def test_an_overloaded_provider_is_told_apart_from_a_broken_one(door: Door) -> None:
    door.fake.script(Fault(status=door.provider.overloaded), Fault(status=500))
    with pytest.raises(UpstreamOverloaded):
        await door.chunks()
    with pytest.raises(UpstreamError) as caught:
        await door.chunks()
    assert type(caught.value) is UpstreamError


async def test_a_prompt_that_does_not_fit_gives_the_numbers(door: Door) -> None:
    with pytest.raises(ContextLengthExceeded) as caught:
        await door.chunks(messages=[{"role": "user", "content": "word " * 5000}])
    assert caught.value.limit == 4096
    assert caught.value.requested is not None
    assert caught.value.requested >= 5000


@pytest.mark.parametrize("position", [1, 3, 6])
async def test_an_answer_that_breaks_off_is_an_error_after_what_came(door: Door, position: int) -> None:
    for fault, error in (
        (Fault(die_after=position), StreamBroken),
        (Fault(cut_after=position), StreamBroken),
        (Fault(malformed_after=position), UpstreamProtocolError),
    ):
        door.fake.script(fault)
        got: list[Json] = []
        request = ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}]})
        with pytest.raises(error):
            async for chunk in door.backend.chat(door.upstream(), request):
                got.append(chunk)  # noqa: PERF401  what came before the error counts
        assert not any(choice["finish_reason"] for chunk in got for choice in chunk["choices"])


async def test_a_connection_lost_before_the_answer_is_unreachable(door: Door) -> None:
    door.fake.script(Fault(die_after=-1))
    with pytest.raises(UpstreamUnreachable):
        await door.chunks()


async def test_a_stall_ends_with_the_clock_that_ran_out(door: Door) -> None:
    door.fake.script(Fault(stall_after=0), Fault(stall_after=4))
    with pytest.raises(FirstByteTimeout):
        await door.chunks(upstream=door.upstream(first_byte=0.1))
    with pytest.raises(IdleTimeout):
        await door.chunks(upstream=door.upstream(idle=0.1))


async def test_leaving_an_answer_ends_it_at_the_provider(door: Door) -> None:
    door.fake.script(Fault(stall_after=5))
    request = ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}]})
    stream = door.backend.chat(door.upstream(), request)
    async with aclosing(stream):  # type: ignore[type-var]
        await anext(stream)
    call = await door.fake.call()
    await call.left()


@pytest.mark.parametrize("field", ["base_url", "api_key", "headers"])
async def test_a_request_names_no_address_and_no_key(door: Door, field: str) -> None:
    with pytest.raises(RoundhouseError) as caught:
        await door.chunks(upstream=None, **{field: "http://127.0.0.1:1"})
    assert caught.value.status == 400
    assert door.fake.calls == []
