"""OpenAI's Responses API for any chat model, tested with OpenAI's official SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from aiohttp import web
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from backends.anthropic import AnthropicBackend
from backends.base import Upstream
from backends.http import HttpClient
from backends.native import refusal_of
from backends.streams.chunks import ChunkWriter, usage
from backends.streams.sealing import decode_thinking, encode_thinking
from backends.wire.responses import ResponsesRequest
from catalog.errors import InvalidRequest, RateLimited, RoundhouseError, StreamBroken
from catalog.types import Json
from server.wires.responses import ResponseStream, to_chat
from tests.fakes.anthropic import SIGNATURE, THOUGHT, FakeAnthropic
from tests.fakes.openai import event as encode
from tests.fakes.server import Call, FakeServer, Fault, Route

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
SCHEMA: Json = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Json = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}


def request_of(**fields: Any) -> ResponsesRequest:
    return ResponsesRequest.model_validate({"model": "m", "input": "Hi", **fields})


def chat_of(**fields: Any) -> Json:
    return to_chat(request_of(**fields)).to_wire()


# ---- the request


def test_settings_have_the_chats_names() -> None:
    named = {"name": "x", "schema": SCHEMA}
    body = chat_of(
        instructions="Be brief.",
        max_output_tokens=9,
        temperature=0.5,
        reasoning={"effort": "low", "summary": "auto"},
        text={
            "format": {"type": "json_schema", **named, "strict": True},
            "verbosity": "low",
        },
        tools=[WEATHER],
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
        top_logprobs=2,
        top_k=3,
    )
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]
    assert (body["max_completion_tokens"], body["temperature"], body["reasoning_effort"]) == (9, 0.5, "low")
    assert body["response_format"]["json_schema"] == {"name": "x", "schema": SCHEMA, "strict": True}
    assert body["tools"] == [
        {"type": "function", "function": {"name": "weather", "parameters": SCHEMA, "strict": True}}
    ]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert (body["parallel_tool_calls"], body["logprobs"], body["top_logprobs"]) == (False, True, 2)
    assert (body["verbosity"], body["top_k"], body["stream_options"]) == ("low", 3, {"include_usage": True})


def test_items_become_messages_and_one_turn_is_one_message() -> None:
    blocks = [{"type": "thinking", "thinking": "Hm.", "signature": "s"}]
    call = {"type": "function_call", "name": "f", "arguments": "{}"}
    body = chat_of(
        input=[
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "Look.", "prompt_cache_breakpoint": {"mode": "explicit"}},
                    {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "low"},
                    {"type": "input_file", "file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"},
                ],
            },
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [{"type": "summary_text", "text": "Hm."}],
                "encrypted_content": encode_thinking(blocks),
            },
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "A fox."}]},
            {**call, "call_id": "c1", "extra_content": {"google": {}}},
            {**call, "call_id": "c2"},
            {"type": "function_call_output", "call_id": "c1", "output": "One."},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "Two."}]},
            {"role": "user", "content": "Thanks."},
        ]
    )
    user, assistant, one, two, thanks = body["messages"]
    mark = {"type": "ephemeral", "ttl": "1h"}
    assert user["content"][0] == {"type": "text", "text": "Look.", "cache_control": mark}
    assert user["content"][1]["image_url"] == {"url": "https://example.com/a.png", "detail": "low"}
    assert user["content"][2]["file"]["filename"] == "a.pdf"
    assert assistant["reasoning_content"] == "Hm."
    assert assistant["thinking_blocks"] == blocks
    assert assistant["content"] == [{"type": "text", "text": "A fox."}]
    assert [call["id"] for call in assistant["tool_calls"]] == ["c1", "c2"]
    assert assistant["tool_calls"][0]["extra_content"] == {"google": {}}
    assert one == {"role": "tool", "tool_call_id": "c1", "content": "One."}
    assert two["content"] == [{"type": "text", "text": "Two."}]
    assert thanks == {"role": "user", "content": "Thanks."}


def test_foreign_encrypted_content_is_not_decoded() -> None:
    assert decode_thinking(encode_thinking([{"a": 1}])) == [{"a": 1}]
    assert (
        decode_thinking("gAAAAABsomeone-elses")
        == decode_thinking("rh1.%%%")
        == decode_thinking(None)
        == decode_thinking("rh1.e30=")
        == []
    )


def test_allowed_tools_are_the_only_ones_sent() -> None:
    other = {**WEATHER, "name": "other"}
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "other"}]}
    body = chat_of(tools=[WEATHER, other], tool_choice=choice)
    assert [tool["function"]["name"] for tool in body["tools"]] == ["other"]
    assert body["tool_choice"] == "required"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"include": ["web_search_call.results"]}, "include"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0]",
        ),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice"),
    ],
)
def test_what_only_a_responses_upstream_can_do_is_refused_elsewhere_by_name(fields: Json, param: str) -> None:
    refusal = refusal_of(to_chat(request_of(**fields)))
    assert refusal is not None
    assert refusal.param == param


def test_a_conversation_that_is_stored_needs_no_input() -> None:
    stored = ResponsesRequest.model_validate({"model": "m", "prompt": {"id": "p"}})
    assert refusal_of(to_chat(stored)) is not None
    with pytest.raises(InvalidRequest):
        to_chat(ResponsesRequest.model_validate({"model": "m"}))


def test_custom_tools_and_their_calls_are_those_of_a_chat() -> None:
    grammar = {"type": "grammar", "syntax": "regex", "definition": "a+"}
    body = chat_of(
        input=[
            {"role": "user", "content": "Run."},
            {"type": "custom_tool_call", "call_id": "c1", "name": "shell", "input": "ls"},
            {"type": "custom_tool_call_output", "call_id": "c1", "output": "a.txt"},
        ],
        tools=[{"type": "custom", "name": "shell", "description": "Runs.", "format": grammar}],
        tool_choice={"type": "custom", "name": "shell"},
    )
    given = {"grammar": {"definition": "a+", "syntax": "regex"}, "type": "grammar"}
    shell = {"name": "shell", "description": "Runs.", "format": given}
    assert body["tools"] == [{"type": "custom", "custom": shell}]
    assert body["tool_choice"] == {"type": "custom", "custom": {"name": "shell"}}
    called = {"id": "c1", "type": "custom", "custom": {"name": "shell", "input": "ls"}}
    assert body["messages"][1:] == [
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c1", "content": "a.txt"},
    ]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": {"type": "function"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "sometimes", "tools": []}}, "tool_choice.mode"),
        ({"tools": [{"type": ""}]}, "tools[0]"),
    ],
)
def test_a_malformed_tool_or_choice_is_named_by_its_own_field(fields: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat_of(**{"tools": [WEATHER], **fields})
    assert refused.value.param == param


def test_an_update_of_the_configuration_holds_until_the_next_one() -> None:
    shape = {"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": True}
    formed = {"type": "configuration_update", "text": {"format": shape}, "reasoning": {"effort": "high"}}
    plain = {"type": "configuration_update", "text": {"format": {"type": "text"}}}
    said = {"role": "user", "content": "Go."}
    chat = to_chat(request_of(input=[formed, said], text={"format": {"type": "json_object"}}))
    assert chat.response_format is not None
    assert chat.response_format.json_schema is not None
    assert (chat.response_format.json_schema.name, chat.reasoning_effort, chat.left_out) == ("a", "high", ())
    again = to_chat(request_of(input=[formed, said, plain]))
    assert (again.response_format, again.reasoning_effort) == (None, "high")
    with pytest.raises(InvalidRequest) as refused:
        chat_of(input=[said, {"type": "configuration_update", "text": {"format": {"type": "nope"}}}])
    assert refused.value.param == "input[1].text.format.type"


def test_a_picture_without_anything_is_told_what_it_lacks() -> None:
    with pytest.raises(InvalidRequest, match="image_url"):
        chat_of(input=[{"role": "user", "content": [{"type": "input_image"}]}])


def test_a_field_that_no_chat_has_is_named() -> None:
    sealed = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"}
    spoken = {"role": "assistant", "content": "Hi.", "phase": "commentary"}
    chat = to_chat(
        request_of(input=[sealed, spoken, {"role": "user", "content": "Go."}], tools=[{**WEATHER, "async": True}])
    )
    assert set(chat.left_out) == {"input.reasoning", "input.phase", "tools.async"}


def test_each_unread_field_of_an_item_or_a_part_is_named() -> None:
    program = {"type": "program", "caller_id": "p"}
    point = {"mode": "explicit", "ttl": "12h"}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    shell = {"type": "shell_call", "call_id": "s", "action": {"commands": ["ls"]}}
    items: list[Json] = [
        {"role": "user", "odd": 1, "content": [{"type": "input_text", "text": "Hi", "more": 2}]},
        {"role": "user", "content": [{"type": "input_text", "text": "Hi", "prompt_cache_breakpoint": point}]},
        {**call, "caller": program},
        {"type": "function_call_output", "call_id": "c", "output": "1", "name": "f", "namespace": "n"},
        {**shell, "environment": {"type": "container_reference", "container_id": "x"}},
    ]
    lost = ("odd", "content.more", "content.prompt_cache_breakpoint.ttl", "caller", "name", "namespace")
    assert set(to_chat(request_of(input=items)).left_out) == {f"input.{name}" for name in (*lost, "environment")}
    silent: list[Json] = [
        {**call, "id": "fc_1", "status": "completed", "caller": {"type": "direct"}},
        {"type": "function_call_output", "call_id": "c", "output": "1"},
        {**shell, "environment": {"type": "local"}},
    ]
    assert to_chat(request_of(input=silent)).left_out == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"input": [{"role": "user", "content": 5}]},
        {"input": [{"role": "king", "content": "x"}]},
        {"input": [{"type": "function_call", "name": "f"}]},
        {"input": [{"role": "user", "content": [5]}]},
        {"input": [{"role": "user", "content": [{"type": "input_audio", "input_audio": 5}]}]},
        {"tools": [{"type": "function"}]},
        {"tool_choice": {"type": "function"}, "tools": [WEATHER]},
        {"text": {"format": {"type": "json_schema"}}},
        {"input": []},
    ],
)
def test_a_malformed_request_is_a_400(fields: Json) -> None:
    with pytest.raises(InvalidRequest):
        chat_of(**fields)


# ---- the answer

WRITER = ChunkWriter("chatcmpl-1", "model-1", 1)


def told(chunks: list[Json], **fields: Any) -> tuple[list[Json], Json]:
    """The events of these chunks, each parsed by OpenAI's SDK, and the final response."""
    stream = ResponseStream(request_of(**fields), "resp_1", 5)
    events = [*stream.start()]
    for chunk in chunks:
        events += stream.feed(chunk)
    events += stream.finish()
    for event in events:
        EVENT.validate_python(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    Response.model_validate(stream.response())
    assert events[-1]["response"] == stream.response()
    return events, stream.response()


def test_reasoning_text_and_tools_each_get_an_item_in_order() -> None:
    events, response = told(
        [
            WRITER.delta({"reasoning_content": "Hm"}),
            WRITER.delta({"reasoning_content": "."}),
            WRITER.delta({"thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "s"}]}),
            WRITER.text("A "),
            WRITER.text("fox."),
            WRITER.tool_start(0, "c1", "f", extra_content={"google": {"thought_signature": "t"}}),
            WRITER.tool_arguments(0, '{"a":'),
            WRITER.tool_arguments(0, "1}"),
            WRITER.tool_start(1, "c2", "g"),
            WRITER.delta({}, finish_reason="tool_calls"),
            WRITER.usage(usage(prompt=7, completion=5, cached=3, cache_write=1, reasoning=2)),
        ]
    )
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds == [
        "created", "in_progress",
        "output_item.added", "reasoning_summary_part.added",
        "reasoning_summary_text.delta", "reasoning_summary_text.delta",
        "reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done",
        "output_item.added", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
        "output_item.added",
        "function_call_arguments.done", "output_item.done", "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    reasoning, message, signature, first, second = response["output"]
    assert (signature["type"], signature["summary"]) == ("reasoning", [])
    assert reasoning["summary"] == [{"type": "summary_text", "text": "Hm."}]
    assert decode_thinking(reasoning["encrypted_content"])[0]["signature"] == "s"
    assert message["content"][0]["text"] == "A fox."
    assert (first["call_id"], first["arguments"]) == ("c1", '{"a":1}')
    assert first["extra_content"] == {"google": {"thought_signature": "t"}}
    assert (second["name"], second["status"]) == ("g", "completed")
    assert response["status"] == "completed"
    assert response["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 1},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 12,
    }


def test_a_call_of_a_custom_tool_is_an_item_with_its_input() -> None:
    start = {"index": 0, "id": "c1", "type": "custom", "custom": {"name": "shell", "input": ""}}
    pieces = [{"index": 0, "custom": {"input": text}} for text in ("ls", " -l")]
    events, response = told(
        [
            *(WRITER.delta({"tool_calls": [call]}) for call in (start, *pieces)),
            WRITER.delta({}, finish_reason="tool_calls"),
        ]
    )
    assert [event["delta"] for event in events if event["type"].endswith("input.delta")] == ["ls", " -l"]
    (item,) = response["output"]
    assert (item["type"], item["call_id"]) == ("custom_tool_call", "c1")
    assert (item["name"], item["input"]) == ("shell", "ls -l")


def test_an_answer_cut_by_length_is_incomplete() -> None:
    events, response = told([WRITER.text("A"), WRITER.delta({}, finish_reason="length")])
    assert events[-1]["type"] == "response.incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["status"] == "incomplete"


def test_a_refusal_is_a_part_of_its_own() -> None:
    _, response = told(
        [WRITER.text("A"), WRITER.delta({"refusal": "No."}), WRITER.delta({}, finish_reason="content_filter")]
    )
    assert [part["type"] for part in response["output"][0]["content"]] == ["output_text", "refusal"]
    assert response["status"] == "completed"


def test_an_answer_without_a_reason_to_end_is_broken_and_can_be_failed() -> None:
    stream = ResponseStream(request_of(), "resp_1", 5)
    list(stream.feed(WRITER.text("Half")))
    with pytest.raises(StreamBroken):
        list(stream.finish())
    (failed,) = stream.fail(RateLimited("Slow down."))
    EVENT.validate_python(failed)
    assert failed["response"]["error"] == {"code": "rate_limit_exceeded", "message": "Slow down."}
    assert failed["response"]["status"] == "failed"


# ---- with the official SDK


class Door(FakeServer):
    """The gateway's endpoint: translates the request, calls a provider, translates its chunks."""

    def __init__(self, backend: AnthropicBackend, there: Upstream) -> None:
        super().__init__()
        self.backend = backend
        self.there = there

    def routes(self) -> list[Route]:
        return [("POST", "/v1/responses", self.respond)]

    async def respond(self, request: web.Request, call: Call) -> web.StreamResponse:
        asked = ResponsesRequest.model_validate(call.body)
        stream = ResponseStream(asked, "resp_1", 5)
        events = [*stream.start()]
        try:
            async for chunk in self.backend.chat(self.there, to_chat(asked)):
                events += stream.feed(chunk)
            events += stream.finish()
        except RoundhouseError as error:
            events += stream.fail(error)
        if not asked.stream:
            return await self.document(request, call, stream.response())
        return await self.stream(request, call, (encode(event, event["type"]) for event in events))


@pytest.fixture
async def fake() -> AsyncIterator[FakeAnthropic]:
    async with FakeAnthropic() as server:
        yield server


@pytest.fixture
async def client(fake: FakeAnthropic) -> AsyncIterator[openai.AsyncOpenAI]:
    there = Upstream("a", "anthropic", fake.origin, "claude-opus-5", api_key=fake.key)
    async with (
        HttpClient() as http,
        Door(AnthropicBackend(http), there) as door,
        openai.AsyncOpenAI(base_url=f"{door.origin}/v1", api_key="rh-test", max_retries=0) as sdk,
    ):
        yield sdk


async def test_openais_sdk_talks_to_claude_and_keeps_its_signatures(
    fake: FakeAnthropic, client: openai.AsyncOpenAI
) -> None:
    tools: Any = [WEATHER]
    async with client.responses.stream(
        model="m", input="How is Paris?", tools=tools, reasoning={"effort": "high"}
    ) as stream:
        kinds = [event.type async for event in stream]
        first = await stream.get_final_response()
    assert "response.reasoning_summary_text.delta" in kinds
    reasoning, call = first.output
    assert reasoning.type == "reasoning"
    assert reasoning.summary[0].text == THOUGHT
    assert call.type == "function_call"
    assert call.arguments == '{"city": "Paris"}'
    history: Any = [
        {"role": "user", "content": "How is Paris?"},
        *(item.model_dump(exclude_none=True) for item in first.output),
        {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."},
    ]
    second = await client.responses.create(model="m", input=history, tools=tools, reasoning={"effort": "high"})
    assert second.output_text == fake.reply
    assert second.usage is not None
    assert second.usage.output_tokens_details.reasoning_tokens > 0
    thinking = fake.calls[1].body["messages"][1]["content"][0]
    assert thinking == {"type": "thinking", "thinking": THOUGHT, "signature": SIGNATURE}


async def test_a_stream_that_fails_ends_with_response_failed(
    fake: FakeAnthropic, client: openai.AsyncOpenAI
) -> None:
    fake.script(Fault(die_after=4))
    stream = await client.responses.create(model="m", input="Hi", stream=True)
    kinds = [event.type async for event in stream]
    assert kinds[-1] == "response.failed"
    assert "response.completed" not in kinds


@pytest.mark.parametrize(("name", "why"), [("zz", "cannot be included"), ("web_search_call.results", "lacks")])
def test_a_part_that_no_response_has_is_told_from_one_of_another_models_tool(name: str, why: str) -> None:
    refusal = refusal_of(to_chat(request_of(include=[name])))
    assert refusal is not None
    assert why in refusal.message
