"""Chats over OpenAI's Responses API: its events become chunks, its failures typed errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from backends.azure import AzureBackend
from backends.base import Timeouts, Upstream
from backends.http import HttpClient
from backends.notices import collect
from backends.openai.backend import OpenAIBackend
from backends.openai.responses import calls
from backends.streams.assemble import ChatAssembler
from backends.wire.chat import ChatRequest
from catalog.errors import (
    InvalidRequest,
    RoundhouseError,
    StreamBroken,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRateLimited,
)
from catalog.types import Json
from tests.backends.answers import assemble_chat
from tests.fakes.openai import FakeOpenAI
from tests.fakes.openai_responses import (
    ENCRYPTED,
    THOUGHT,
    message_item,
    response_events,
    text_part,
)
from tests.fakes.server import Call, Fault

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
SCHEMA: Json = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Json = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
GRAMMAR: Json = {"syntax": "lark", "definition": "start: /a+/"}
SHELL: Json = {
    "type": "custom",
    "custom": {"name": "shell", "description": "Runs.", "format": {"type": "grammar", "grammar": GRAMMAR}},
}

SEARCHED: Json = {
    "id": "ws_1", "type": "web_search_call", "status": "completed",
    "action": {"type": "search", "query": "fox"},
}  # fmt: skip


def request_of(**fields: Any) -> ChatRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}
    return ChatRequest.model_validate(body)


@pytest.fixture
async def fake() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as server:
        yield server


class Client:
    """The backend in front of the fake."""

    def __init__(self, fake: FakeOpenAI, http: HttpClient) -> None:
        self.fake = fake
        self.backend = OpenAIBackend(http)
        self.upstream = Upstream("far", "openai", fake.base_url, "fake-chat", wire="responses", reasons=True)

    async def chunks(self, **fields: Any) -> list[Json]:
        return [chunk async for chunk in self.backend.chat(self.upstream, request_of(**fields))]

    async def says(self, **fields: Any) -> Json:
        """The assembled message with its finish_reason."""
        document = await self.whole(**fields)
        (choice,) = document["choices"]
        return {**choice["message"], "finish_reason": choice["finish_reason"]}

    async def whole(self, **fields: Any) -> Json:
        assembler = ChatAssembler()
        for chunk in await self.chunks(**fields):
            ChatCompletionChunk.model_validate(chunk)
            assembler.add(chunk)
        document = assembler.result()
        ChatCompletion.model_validate(document)
        return document

    def call(self) -> Call:
        return self.fake.calls[-1]


@pytest.fixture
async def client(fake: FakeOpenAI) -> AsyncIterator[Client]:
    async with HttpClient() as http:
        yield Client(fake, http)


def test_the_fake_speaks_as_the_sdks_types_say() -> None:
    items = [
        {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
        message_item([text_part(("A", " b"), top=1)]),
        {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"id": "ctc_1", "type": "custom_tool_call", "call_id": "d", "name": "g", "input": "xy"},
    ]
    for event in response_events({"model": "m", "input": "Hi"}, items, {}):
        EVENT.validate_python(event)


async def test_usage_tier_time_and_name_arrive(client: Client) -> None:
    answer = await client.whole()
    assert answer["usage"] == {
        "prompt_tokens": 4,
        "completion_tokens": 10,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    assert answer["service_tier"] == "default"
    assert answer["created"] == 1_760_000_000
    assert client.call().path == "/v1/responses"


async def test_reasoning_is_told_and_kept_for_the_next_turn(client: Client) -> None:
    asked: list[Json] = [{"role": "user", "content": "How is Paris?"}]
    fields: Json = {"reasoning_effort": "low", "reasoning": {"summary": "auto"}, "tools": [WEATHER]}
    said = await client.says(messages=asked, tool_choice="required", **fields)
    assert said["reasoning_content"] == THOUGHT
    (block,) = said["thinking_blocks"]
    assert (block["encrypted_content"], block["endpoint"], block["before"]) == (ENCRYPTED, "far", "call_0")
    result = {"role": "tool", "tool_call_id": "call_0", "content": "Sunny."}
    await client.says(messages=[*asked, said, result], **fields)
    items = client.call().body["input"]
    assert [item["type"] for item in items] == ["message", "reasoning", "function_call", "function_call_output"]
    assert items[1] == {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": THOUGHT}],
        "encrypted_content": ENCRYPTED,
    }


async def test_a_custom_tool_is_called_with_its_text(client: Client) -> None:
    client.fake.output = [
        {"id": "ctc_1", "type": "custom_tool_call", "call_id": "c1", "name": "shell", "input": "ls -l"}
    ]
    deltas = [
        call
        for chunk in await client.chunks(tools=[SHELL])
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls") or ()
    ]
    assert deltas[0] == {"index": 0, "id": "c1", "type": "custom", "custom": {"name": "shell", "input": ""}}
    assert "".join(delta["custom"]["input"] for delta in deltas) == "ls -l"


async def test_citations_become_annotations(client: Client) -> None:
    cited = {"url": "https://example.com", "title": "T", "start_index": 0, "end_index": 1}
    part = text_part(("A", " fox."), annotations=({"type": "url_citation", **cited},))
    client.fake.output = [SEARCHED, message_item([part])]
    said = await client.says(web_search_options={})
    assert said["content"] == "A fox."
    assert said["annotations"] == [{"type": "url_citation", "url_citation": cited}]


async def test_what_is_paid_by_the_piece_is_counted(client: Client) -> None:
    ran = {"id": "ci_1", "type": "code_interpreter_call", "status": "completed", "container_id": "c1", "code": "1"}
    opened = {**SEARCHED, "id": "ws_2", "action": {"type": "open_page", "url": "https://example.com"}}
    client.fake.output = [SEARCHED, opened, ran, {**ran, "id": "ci_2"}, message_item([text_part(("1",))])]
    whole = await client.whole()
    assert whole["usage"]["server_tool_use"] == {"web_search_requests": 1, "containers": 1}
    kept = {"ttl_12h_tokens": 1, "ttl_30m_tokens": 0}
    counts = {"cached_tokens": 2, "cache_write_tokens": 1, "cache_write_tokens_details": kept}
    client.fake.ending = {"usage": {"input_tokens": 5, "input_tokens_details": counts, "output_tokens": 1}}
    details = (await client.whole())["usage"]["prompt_tokens_details"]
    assert details == counts


async def test_a_search_is_told_counted_and_given_back_where_it_was(client: Client) -> None:
    thoughts = [
        {"id": f"rs_{at}", "type": "reasoning", "summary": [], "encrypted_content": ENCRYPTED} for at in (1, 2)
    ]
    client.fake.output = [thoughts[0], SEARCHED, thoughts[1], message_item([text_part(("A fox.",))])]
    client.fake.ending = {"tool_usage": {"web_search": {"num_requests": 1}, "image_gen": {}}}
    whole = await client.whole(web_search_options={})
    said = whole["choices"][0]["message"]
    assert said["server_tool_calls"] == [SEARCHED]
    assert whole["usage"]["server_tool_use"] == {"web_search_requests": 1}
    client.fake.output, client.fake.ending = None, {}
    await client.says(messages=[{"role": "user", "content": "Hi"}, said, {"role": "user", "content": "More."}])
    assert client.call().body["input"][1:4] == [thoughts[0], SEARCHED, thoughts[1]]
    other = replace(client.upstream, endpoint="other")
    turns = request_of(messages=[said, {"role": "user", "content": "More."}])
    assert client.backend.dropped(turns, other) == ("messages.thinking_blocks", "messages.server_tool_calls")


@pytest.mark.parametrize("streams", [True, False])
async def test_two_messages_of_one_response_are_two_paragraphs_and_citations_point_into_them(
    client: Client, streams: bool
) -> None:
    cited = {"type": "url_citation", "url": "https://example.com", "title": "T", "start_index": 0}
    last = [text_part((text,), annotations=({**cited, "end_index": len(text)},)) for text in ("Then", " more")]
    client.fake.output = [message_item([text_part(("First.",))]), message_item(last, "msg_2")]
    client.fake.streams = streams
    said = await client.says()
    assert said["content"] == "First.\n\nThen more"
    places = [note["url_citation"] for note in said["annotations"]]
    assert [said["content"][one["start_index"] : one["end_index"]] for one in places] == ["Then", " more"]


async def test_the_probabilities_of_tokens_arrive(client: Client) -> None:
    document = await client.whole(logprobs=True, top_logprobs=2)
    tokens = document["choices"][0]["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == client.fake.reply
    assert [other["token"] for other in tokens[0]["top_logprobs"]] == ["The", " other"]


@pytest.mark.parametrize(
    ("details", "reason"),
    [("max_output_tokens", "length"), ("content_filter", "content_filter"), ("max_messages", "length")],
)
async def test_an_incomplete_response_says_why(client: Client, details: str, reason: str) -> None:
    client.fake.ending = {"status": "incomplete", "incomplete_details": {"reason": details}}
    assert (await client.says())["finish_reason"] == reason


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("server_error", UpstreamError),
        ("rate_limit_exceeded", UpstreamRateLimited),
        ("invalid_prompt", InvalidRequest),
        ("image_parse_error", InvalidRequest),
        ("something_new", UpstreamError),
    ],
)
async def test_a_failed_response_is_the_error_of_its_code(
    client: Client, code: str, error: type[RoundhouseError]
) -> None:
    client.fake.output = []
    client.fake.ending = {"status": "failed", "error": {"code": code, "message": "It failed."}}
    with pytest.raises(error, match=r"It failed\.") as caught:
        await client.chunks()
    assert type(caught.value) is error
    if code == "invalid_prompt":
        assert caught.value.code == "invalid_prompt"


@pytest.mark.parametrize("nested", [False, True])
async def test_an_error_event_ends_the_answer(client: Client, nested: bool) -> None:
    error = {"code": "rate_limit_exceeded", "message": "Slow down.", "param": None}
    client.fake.between = [{"type": "error", "error": error} if nested else {"type": "error", **error}]
    with pytest.raises(UpstreamRateLimited, match="Slow down"):
        await client.chunks()


async def test_a_stream_without_its_end_is_broken(client: Client) -> None:
    client.fake.ending = {"status": "lost"}
    with pytest.raises(StreamBroken):
        await client.chunks()


@pytest.mark.parametrize(
    "event",
    [
        {"type": "response.output_text.delta", "output_index": 7, "delta": "x"},
        {"type": "response.output_text.delta", "output_index": 0, "delta": 5},
        {"type": "response.output_item.added", "output_index": 1, "item": {"type": "function_call"}},
        {"type": "response.completed", "response": None},
        {"type": ["response.completed"]},
        {"type": "response.new\ndata: {}"},
    ],
)
async def test_an_event_of_a_wrong_shape_is_the_upstreams_fault(client: Client, event: Json) -> None:
    client.fake.between = [event]
    with pytest.raises(UpstreamProtocolError):
        await client.chunks()


class FakeAzure(FakeOpenAI):
    prefix = "/openai/v1"


async def test_azure_answers_at_its_own_address_with_its_own_header() -> None:
    async with FakeAzure() as fake, HttpClient() as http:
        there = Upstream("az", "azure", fake.origin, "fake-chat", api_key="secret-key-1", wire="responses")
        answer = await assemble_chat(AzureBackend(http).chat(there, request_of()))
        assert answer["choices"][0]["message"]["content"] == fake.reply
        assert (fake.calls[0].path, fake.calls[0].headers["api-key"]) == ("/openai/v1/responses", "secret-key-1")
        assert await AzureBackend(http).count(there, request_of()) == {"input_tokens": 4321}


class Lingering(FakeOpenAI):
    """Keeps its streams open after the last event."""

    async def stream(
        self, request: web.Request, call: Call, chunks: Iterable[bytes], **options: Any
    ) -> web.StreamResponse:
        told = [*chunks, b": more\n\n"]
        call.fault = Fault(stall_after=len(told) - 1)
        return await super().stream(request, call, told, **options)


async def test_the_last_event_ends_the_answer_also_if_the_stream_stays_open() -> None:
    async with Lingering() as fake, HttpClient() as http:
        client = Client(fake, http)
        client.upstream = replace(client.upstream, timeouts=Timeouts(idle=0.3))
        assert (await client.says())["content"] == fake.reply


async def test_an_unknown_kind_of_event_changes_nothing(client: Client) -> None:
    client.fake.between = [{"type": "response.something.new", "value": 1}]
    assert (await client.says())["content"] == client.fake.reply


async def test_a_server_that_does_not_stream_gives_the_same_message(client: Client) -> None:
    fields: Json = {
        "tools": [WEATHER],
        "tool_choice": "required",
        "reasoning_effort": "low",
        "reasoning": {"summary": "auto"},
    }
    streamed = await client.says(**fields), await client.says()
    client.fake.streams = False
    assert (await client.says(**fields), await client.says()) == streamed


async def test_a_stop_sequence_ends_the_text_and_the_decoding(client: Client) -> None:
    chunks = [chunk for chunk in await client.chunks(stop=["fox j", "dog"]) if chunk["choices"]]
    last = chunks[-1]["choices"][0]
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", "fox j")
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "The quick brown "
    assert "stop" not in client.call().body


@pytest.mark.parametrize("ends", [True, False], ids=["ends soon", "goes on"])
async def test_usage_after_a_stop_sequence_comes_if_the_answer_ends_soon_else_it_is_named(
    client: Client, monkeypatch: pytest.MonkeyPatch, *, ends: bool
) -> None:
    monkeypatch.setattr(calls, "_FOR_USAGE", 30 if ends else 0.01)
    if not ends:
        client.fake.script(Fault(stall_after=9))
    reported = collect().dropped
    chunks = await client.chunks(stop=["fox j"])
    assert [bool(chunk.get("usage")) for chunk in chunks if not chunk["choices"]] == [True] * ends
    assert reported == ([] if ends else ["usage"])


async def test_an_error_names_the_field_of_the_chat(client: Client) -> None:
    client.fake.output = []
    error = {"code": "invalid_json_schema", "message": "Bad.", "param": "text.format.schema"}
    client.fake.ending = {"status": "failed", "error": error}
    with pytest.raises(InvalidRequest) as caught:
        await client.chunks()
    assert caught.value.param == "response_format"


async def test_an_unknown_parameter_is_not_sent_and_one_that_a_response_alone_has_is_refused(
    client: Client,
) -> None:
    assert await client.chunks(brand_new=True)
    assert "brand_new" not in client.fake.calls[-1].body
    with pytest.raises(InvalidRequest, match="max_output_tokens"):
        await client.chunks(max_output_tokens=99_999)
