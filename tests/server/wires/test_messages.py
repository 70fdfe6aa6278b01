"""Anthropic's Messages API for any chat model, tested with Anthropic's official SDK."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
from aiohttp import web

from backends.base import Upstream
from backends.google import GoogleBackend
from backends.http import HttpClient
from backends.native import refusal_of
from backends.openai.backend import OpenAIBackend
from backends.streams.chunks import ChunkWriter, usage
from backends.wire.messages import MessagesRequest
from catalog.errors import (
    InvalidRequest,
    ModelNotFound,
    RateLimited,
    RoundhouseError,
    StreamBroken,
    UnsupportedParameter,
    UpstreamOverloaded,
    UpstreamProtocolError,
)
from catalog.types import Json
from server.edge.errors import anthropic_error
from server.wires.messages import MessageStream, to_chat
from tests.fakes.google import SIGNATURE, THOUGHT, FakeGoogle
from tests.fakes.openai import FakeOpenAI
from tests.fakes.openai import event as encode
from tests.fakes.server import Call, FakeServer, Fault, Route

SCHEMA: Json = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Json = {"name": "weather", "description": "The weather.", "input_schema": SCHEMA}
HELLO: Json = {"role": "user", "content": "Hi"}


def chat_of(**fields: Any) -> Json:
    request = MessagesRequest.model_validate({"model": "m", "max_tokens": 100, "messages": [HELLO], **fields})
    body = to_chat(request).to_wire()
    assert body.pop("stream") is True
    return body


# ---- the request


def test_turns_become_messages_with_their_tools_results_first() -> None:
    mark = {"type": "ephemeral"}
    body = chat_of(
        system=[{"type": "text", "text": "S", "cache_control": mark}],
        messages=[
            HELLO,
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Claude's.", "signature": "s"},
                    {"type": "thinking", "thinking": "Hm.", "signature": ""},
                    {"type": "text", "text": "Let me see."},
                    {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Paris"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "And?"},
                    {"type": "tool_result", "tool_use_id": "t1", "content": "Sunny.", "is_error": True},
                ],
            },
        ],
    )
    system, hello, assistant, result, rest = body["messages"]
    assert system == {"role": "system", "content": [{"type": "text", "text": "S", "cache_control": mark}]}
    assert hello == HELLO
    assert assistant["reasoning_content"] == "Hm."
    assert "thinking_blocks" not in assistant
    assert assistant["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city":"Paris"}'}
    assert result == {"role": "tool", "tool_call_id": "t1", "content": "Sunny.", "is_error": True}
    assert rest == {"role": "user", "content": [{"type": "text", "text": "And?"}]}


def test_media_become_openais_parts() -> None:
    png = {"type": "base64", "media_type": "image/png", "data": "AA=="}
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "AA=="}
    blocks = [
        {"type": "image", "source": png},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        {"type": "document", "source": pdf, "title": "a.pdf"},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "plain"}},
    ]
    parts = chat_of(messages=[{"role": "user", "content": blocks}])["messages"][0]["content"]
    assert parts[0]["image_url"]["url"] == "data:image/png;base64,AA=="
    assert parts[1]["image_url"]["url"] == "https://example.com/a.png"
    assert parts[2]["file"] == {"file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"}
    assert parts[3] == {"type": "text", "text": "plain"}


def test_settings_have_openais_names() -> None:
    body = chat_of(
        temperature=0.5,
        top_k=3,
        stop_sequences=["END"],
        metadata={"user_id": "u"},
        tools=[WEATHER],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        thinking={"type": "enabled", "budget_tokens": 4000},
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
    )
    assert body["max_completion_tokens"] == 100
    assert (body["temperature"], body["top_k"], body["stop"], body["user"]) == (0.5, 3, ["END"], "u")
    assert body["tools"][0]["function"]["parameters"] == SCHEMA
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("required", False)
    assert body["reasoning_effort"] == "medium"
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert chat_of(thinking={"type": "adaptive"}, output_config={"effort": "max"})["reasoning_effort"] == "max"
    assert chat_of(thinking={"type": "disabled"})["reasoning_effort"] == "none"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, InvalidRequest),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, InvalidRequest),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": 3}]}]}, InvalidRequest),
        ({"tool_choice": {"type": "tool", "name": 7}, "tools": [WEATHER]}, InvalidRequest),
        ({"thinking": {"type": "enabled"}}, InvalidRequest),
        ({"compaction": {"type": "forget"}}, InvalidRequest),
        ({"thinking": {"type": 4}}, InvalidRequest),
        ({"output_config": {"format": {"type": "xml"}}}, InvalidRequest),
    ],
)
def test_an_unsupported_request_is_refused_with_a_reason(fields: Json, error: type[RoundhouseError]) -> None:
    with pytest.raises(error):
        chat_of(**fields)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, "messages[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "file"}}]}]},
            "messages[0]",
        ),
        ({"inference_geo": "eu"}, "inference_geo"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"thread": {"type": "create"}}, "thread"),
        ({"billing_policy": {"type": "billing_policy", "bill_to": "user_profile"}}, "billing_policy"),
    ],
)
def test_what_only_anthropic_can_do_is_refused_by_every_other_provider(fields: Json, param: str) -> None:
    request = MessagesRequest.model_validate({"model": "m", "max_tokens": 100, "messages": [HELLO], **fields})
    refused = refusal_of(to_chat(request))
    assert isinstance(refused, UnsupportedParameter)
    assert refused.param == param


def test_fields_of_blocks_that_a_chat_does_not_hold_are_named() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "plain"}
    document = {"type": "document", "source": source, "title": "T", "context": "C", "citations": {"enabled": True}}
    said = {"type": "text", "text": "a", "citations": [{"type": "char_location"}]}
    plain = {"type": "text", "text": "b", "citations": None}
    request = MessagesRequest.model_validate(
        {
            "max_tokens": 100,
            "messages": [
                {"role": "user", "content": [document]},
                {"role": "assistant", "content": [said, plain]},
            ],
            "tools": [{**WEATHER, "input_examples": [{"city": "Paris"}]}],
        }
    )
    chat = to_chat(request)
    assert refusal_of(chat) is None
    assert set(chat.left_out) == {
        "messages.content.title", "messages.content.context", "messages.content.citations", "tools.input_examples",
    }  # fmt: skip


@pytest.mark.parametrize(("length", "kept"), [(64, True), (65, False), (5000, False)])
def test_a_users_id_that_is_too_long_for_other_providers_becomes_its_digest(length: int, kept: bool) -> None:
    user = chat_of(metadata={"user_id": "u" * length})["user"]
    assert (user == "u" * length) is kept
    assert len(user) == 64


# ---- the answer


def test_reasoning_without_a_signature_is_a_thinking_block_with_an_empty_one() -> None:
    writer = ChunkWriter("chatcmpl-1", "m", 1)
    stream = MessageStream("msg_1")
    chunks = [
        writer.delta({"reasoning_content": "Hm."}),
        writer.text("Yes."),
        writer.delta({}, finish_reason="stop"),
    ]
    for chunk in [*chunks, writer.usage(usage(prompt=20, completion=5, cached=8, cache_write=2, reasoning=3))]:
        list(stream.feed(chunk))
    list(stream.finish())
    assert stream.message()["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "text", "text": "Yes."},
    ]
    counted = stream.message()["usage"]
    assert (counted["input_tokens"], counted["cache_read_input_tokens"]) == (10, 8)
    assert (counted["cache_creation_input_tokens"], counted["output_tokens"]) == (2, 5)


def test_an_answer_without_a_reason_to_end_is_broken() -> None:
    stream = MessageStream("msg_1")
    list(stream.feed(ChunkWriter("chatcmpl-1", "m", 1).text("Half")))
    with pytest.raises(StreamBroken):
        list(stream.finish())


def test_arguments_that_are_no_object_reach_the_client_which_tells_the_model() -> None:
    writer = ChunkWriter("chatcmpl-1", "m", 1)
    stream = MessageStream("msg_1")
    for chunk in (
        writer.tool_start(0, "t", "f"),
        writer.tool_arguments(0, "[1"),
        writer.delta({}, finish_reason="stop"),
    ):
        list(stream.feed(chunk))
    list(stream.finish())
    (block,) = stream.message()["content"]
    assert block["input"] == {"INVALID_JSON": "[1"}


def test_parallel_calls_whose_arguments_alternate_have_whole_blocks_in_turn() -> None:
    writer = ChunkWriter("chatcmpl-1", "m", 1)
    stream = MessageStream("msg_1")
    chunks = [writer.tool_start(at, f"t{at}", "f") for at in range(3)]
    chunks += [writer.tool_arguments(at, piece) for piece in ('{"a":', "1}") for at in (0, 1, 2)]
    chunks.append(writer.delta({}, finish_reason="tool_calls"))
    events = [event for chunk in chunks for event in stream.feed(chunk)]
    events += stream.finish()
    blocks = [(block["id"], block["input"]) for block in stream.message()["content"]]
    assert blocks == [("t0", {"a": 1}), ("t1", {"a": 1}), ("t2", {"a": 1})]
    given = ["", "", ""]
    order = []
    for event in events:
        if event["type"] == "content_block_delta":
            given[event["index"]] += event["delta"]["partial_json"]
        elif event["type"].startswith("content_block"):
            order.append((event["type"].removeprefix("content_block_"), event["index"]))
    assert given == ['{"a":1}'] * 3
    assert order == [(kind, at) for at in range(3) for kind in ("start", "stop")]


@pytest.mark.parametrize(
    ("pieces", "blocks"),
    [
        (["{", "}"], ["tool_use", "text"]),
        (["", '{"a":1}'], ["tool_use", "text"]),
        (['{"a":1}', ""], ["tool_use", "text"]),
    ],
)
@pytest.mark.parametrize("name", ["content", "reasoning_content"])
def test_text_between_the_parts_of_a_call_follows_its_block(
    pieces: list[str], blocks: list[str], name: str
) -> None:
    writer = ChunkWriter("chatcmpl-1", "m", 1)
    stream = MessageStream("msg_1")
    chunks = [writer.tool_start(0, "t", "f"), writer.tool_arguments(0, pieces[0]), writer.delta({name: "x"})]
    chunks += [writer.tool_arguments(0, pieces[1]), writer.delta({name: "y"})]
    chunks.append(writer.delta({}, finish_reason="tool_calls"))
    events = [event for chunk in chunks for event in stream.feed(chunk)] + list(stream.finish())
    call, said = stream.message()["content"]
    kind = "text" if name == "content" else "thinking"
    assert (call["type"], call["input"], said[kind]) == (blocks[0], json.loads("".join(pieces)), "xy")
    order = [event["index"] for event in events if event["type"] == "content_block_delta"]
    assert order == sorted(order)


def test_a_later_call_streams_once_the_call_before_it_is_whole() -> None:
    writer = ChunkWriter("chatcmpl-1", "m", 1)
    stream = MessageStream("msg_1")
    for chunk in (writer.tool_start(0, "a", "f"), writer.tool_arguments(0, "{}")):
        list(stream.feed(chunk))
    begun = [event["type"] for event in stream.feed(writer.tool_start(1, "b", "f"))]
    assert begun == ["content_block_stop", "content_block_start"]


def test_a_message_with_a_call_stops_for_it_whatever_the_server_says() -> None:
    writer = ChunkWriter("chatcmpl-1", "m", 1)
    stream = MessageStream("msg_1")
    for chunk in (writer.tool_start(0, "t", "f"), writer.delta({}, finish_reason="stop")):
        list(stream.feed(chunk))
    (last, _) = [event for event in stream.finish() if event["type"].startswith("message")]
    assert last["delta"]["stop_reason"] == "tool_use"
    assert stream.message()["stop_reason"] == "tool_use"


def test_a_call_that_the_limit_of_the_answer_cut_off_is_no_error() -> None:
    writer = ChunkWriter("chatcmpl-1", "m", 1)
    stream = MessageStream("msg_1")
    for chunk in (
        writer.tool_start(0, "t", "f"),
        writer.tool_arguments(0, '{"a'),
        writer.delta({}, finish_reason="length"),
    ):
        list(stream.feed(chunk))
    list(stream.finish())
    message = anthropic.types.Message.model_validate(stream.message())
    assert message.stop_reason == "max_tokens"
    assert message.content[0].type == "tool_use"
    assert message.content[0].input == {"partial_json": '{"a'}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("x"), "invalid_request_error"),
        (ModelNotFound("x"), "not_found_error"),
        (RateLimited("x"), "rate_limit_error"),
        (UpstreamOverloaded("x"), "overloaded_error"),
        (UpstreamProtocolError("x"), "api_error"),
    ],
)
def test_errors_have_anthropics_types(error: RoundhouseError, kind: str) -> None:
    assert anthropic_error(error, request_id="r")["error"]["type"] == kind
    assert anthropic_error(error, request_id="r")["request_id"] == "r"


# ---- with the official SDK


class Door(FakeServer):
    """The gateway's endpoint: translates the request, calls a provider, translates its chunks."""

    def __init__(self, backend: GoogleBackend | OpenAIBackend, there: Upstream) -> None:
        super().__init__()
        self.backend = backend
        self.there = there

    def routes(self) -> list[Route]:
        return [("POST", "/v1/messages", self.messages)]

    async def messages(self, request: web.Request, call: Call) -> web.StreamResponse:
        asked = MessagesRequest.model_validate(call.body)
        stream = MessageStream("msg_1", prompt_tokens=3)
        events: list[Json] = []
        try:
            async for chunk in self.backend.chat(self.there, to_chat(asked)):
                events += stream.feed(chunk)
            events += stream.finish()
        except RoundhouseError as error:
            if not events:
                return web.json_response(anthropic_error(error), status=error.status, headers=error.headers())
            events += stream.fail(error)
        if not asked.stream:
            return await self.document(request, call, stream.message())
        return await self.stream(request, call, (encode(event, event["type"]) for event in events))


@pytest.fixture
async def google() -> AsyncIterator[FakeGoogle]:
    async with FakeGoogle() as fake:
        yield fake


@pytest.fixture
async def client(google: FakeGoogle) -> AsyncIterator[anthropic.AsyncAnthropic]:
    there = Upstream(
        endpoint="g", protocol="google", base_url=google.base_url, model="gemini-3-flash", api_key=google.key
    )
    async with (
        HttpClient() as http,
        Door(GoogleBackend(http), there) as door,
        anthropic.AsyncAnthropic(base_url=door.origin, api_key="rh-test", max_retries=0) as sdk,
    ):
        yield sdk


async def test_anthropics_sdk_talks_to_gemini_and_keeps_its_signatures(
    google: FakeGoogle, client: anthropic.AsyncAnthropic
) -> None:
    tools: Any = [WEATHER]
    hello: Any = HELLO
    async with client.messages.stream(
        model="m",
        max_tokens=500,
        messages=[hello],
        tools=tools,
        thinking={"type": "adaptive"},
    ) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_message()
    assert "thinking" in kinds
    assert final.stop_reason == "tool_use"
    thinking, call = final.content
    assert thinking.type == "thinking"
    assert thinking.thinking == THOUGHT
    assert call.type == "tool_use"
    assert call.input == {"city": "Paris"}
    said: Any = {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in final.content]}
    result: Any = {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "Sunny."}],
    }
    plain = await client.messages.create(
        model="m",
        max_tokens=500,
        messages=[hello, said, result],
        tools=tools,
    )
    assert plain.content[0].type == "text"
    assert plain.content[0].text == google.reply
    assert plain.usage.input_tokens == 7
    assert plain.usage.cache_read_input_tokens == 3
    parts = google.calls[-1].body["contents"][1]["parts"]
    assert [part["thoughtSignature"] for part in parts if "functionCall" in part] == [SIGNATURE]


async def test_a_refusal_and_an_error_reach_the_sdk_in_anthropics_shape(
    google: FakeGoogle, client: anthropic.AsyncAnthropic
) -> None:
    google.script(Fault(refuse=True), Fault(status=503), Fault(die_after=3))
    hello: Any = [HELLO]
    refused = await client.messages.create(model="m", max_tokens=9, messages=hello)
    assert refused.stop_reason == "refusal"
    assert refused.stop_details is not None
    assert refused.stop_details.explanation
    with pytest.raises(anthropic.APIStatusError) as caught:
        await client.messages.create(model="m", max_tokens=9, messages=hello)
    assert caught.value.type == "overloaded_error"
    with pytest.raises(anthropic.APIStatusError) as caught:
        async with client.messages.stream(model="m", max_tokens=9, messages=hello) as stream:
            await stream.get_final_message()
    assert caught.value.type == "api_error"


async def test_an_openai_model_answers_too() -> None:
    async with FakeOpenAI() as fake, HttpClient() as http:
        there = Upstream(endpoint="o", protocol="openai", base_url=fake.base_url, model="fake-chat")
        async with (
            Door(OpenAIBackend(http), there) as door,
            anthropic.AsyncAnthropic(base_url=door.origin, api_key="rh-test", max_retries=0) as sdk,
        ):
            answer = await sdk.messages.create(
                model="m", max_tokens=3, messages=[{"role": "user", "content": "Hi"}]
            )
    assert json.loads(answer.model_dump_json())["content"][0]["text"] == "The quick brown"
    assert answer.stop_reason == "max_tokens"


def test_the_stop_sequence_that_ended_the_text_is_told() -> None:
    def told(choice: Json) -> Json:
        stream = MessageStream(message_id="msg_1", stop_sequences=["END"])
        list(stream.feed({"choices": [{"index": 0, "delta": {"content": "a"}}]}))
        list(stream.feed({"choices": [{"index": 0, "delta": {}, **choice}]}))
        delta = next(event for event in stream.finish() if event["type"] == "message_delta")["delta"]
        message = stream.message()
        assert (message["stop_reason"], message["stop_sequence"]) == (delta["stop_reason"], delta["stop_sequence"])
        return {name: delta[name] for name in ("stop_reason", "stop_sequence")}

    by_sequence = {"stop_reason": "stop_sequence", "stop_sequence": "END"}
    assert told({"finish_reason": "stop", "stop_reason": "END"}) == by_sequence
    plain = {"stop_reason": "end_turn", "stop_sequence": None}
    assert told({"finish_reason": "stop", "stop_reason": None}) == plain
    assert told({"finish_reason": "stop", "stop_reason": 7}) == plain, "vLLM's id of a stop token"
    assert told({"finish_reason": "length", "stop_reason": "END"})["stop_sequence"] is None


def test_an_answer_without_a_count_has_estimated_tokens() -> None:
    writer = ChunkWriter("chatcmpl-1", "m", 1)
    stream = MessageStream("msg_1", prompt_tokens=7)
    chunks = [writer.text("Some words of an answer."), writer.tool_start(0, "t", "f")]
    chunks += [writer.tool_arguments(0, '{"city":"Paris"}'), writer.delta({}, finish_reason="stop")]
    for chunk in chunks:
        list(stream.feed(chunk))
    ended = next(event for event in stream.finish() if event["type"] == "message_delta")
    assert ended["usage"]["output_tokens"] > 5
    assert stream.message()["usage"]["output_tokens"] == ended["usage"]["output_tokens"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "auto", "disable_parallel_tool_use": "yes"}},
            "tool_choice.disable_parallel_tool_use",
        ),
    ],
)
def test_tools_have_schemas_and_booleans_are_booleans(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat_of(**fields)
    assert refused.value.param == param
