"""Anthropic's translation: native parameters, reported ones, and that the fake speaks the true wire."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import anthropic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.anthropic import AnthropicBackend
from backends.anthropic.errors import read_stream_error
from backends.anthropic.models import traits
from backends.anthropic.request import ANSWER_TOOL, DEFAULT_MAX_TOKENS, translate
from backends.anthropic.schema import Inexpressible, constrain
from backends.anthropic.stream import AnthropicStream
from backends.base import Chat, Upstream
from backends.http import HttpClient
from backends.streams.assemble import ChatAssembler
from backends.streams.sse import SSEReader
from backends.wire.chat import ChatRequest
from catalog.errors import (
    CapabilityMismatch,
    ContextLengthExceeded,
    InvalidRequest,
    StreamBroken,
    UndecodableMedia,
    UnsupportedParameter,
    UpstreamForbidden,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamQuotaExceeded,
)
from catalog.types import Json
from tests.fakes.anthropic import SIGNATURE, THOUGHT, FakeAnthropic, encode, stream_of
from tests.fakes.server import Fault

NEW, BUDGETS, OLD = "claude-opus-5", "claude-haiku-4-5", "claude-3-7-sonnet-20250219"
OPEN_SCHEMA: Json = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": True}
CLOSED: Json = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}


def upstream(model: str = NEW, **fields: Any) -> Upstream:
    return Upstream(endpoint="a", protocol="anthropic", base_url="http://127.0.0.1:1", model=model, **fields)


def asked(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields})


def sent(model: str = NEW, **fields: Any) -> tuple[Json, tuple[str, ...]]:
    translation = translate(asked(**fields), upstream(model))
    return translation.body, translation.dropped


def tool(name: str = "f", **function: Any) -> Json:
    return {"type": "function", "function": {"name": name, "parameters": CLOSED, **function}}


def wanted(schema: Json, *, strict: bool = True) -> Json:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": strict}}


# ---- models


@pytest.mark.parametrize(
    ("model", "adaptive", "budgets", "sampling"),
    [
        ("claude-3-7-sonnet-20250219", False, True, True),
        ("claude-opus-4-20250514", False, True, True),
        ("claude-sonnet-4-5-20250929", False, True, True),
        ("claude-sonnet-4-6", True, True, True),
        ("us.anthropic.claude-opus-4-7-v1:0", True, False, False),
        ("claude-fable-5", True, False, False),
        ("some-alias", True, False, False),
    ],
)
def test_a_models_generation_is_read_from_its_name(
    model: str, adaptive: bool, budgets: bool, sampling: bool
) -> None:
    can = traits(model)
    assert (can.adaptive, can.budgets, can.sampling) == (adaptive, budgets, sampling)


# ---- the request


def test_max_tokens_is_the_callers_then_the_rows_then_a_documented_one() -> None:
    assert sent(max_tokens=5)[0]["max_tokens"] == 5
    assert sent(max_completion_tokens=6)[0]["max_tokens"] == 6
    assert translate(asked(), upstream(max_output_tokens=7)).body["max_tokens"] == 7
    assert sent()[0]["max_tokens"] == DEFAULT_MAX_TOKENS


def test_sampling_is_sent_where_it_is_taken_and_reported_where_it_is_not() -> None:
    body, dropped = sent(BUDGETS, temperature=0.5, top_k=5, stop=["END", "\n"])
    assert (body["temperature"], body["top_k"], body["stop_sequences"]) == (0.5, 5, ["END"])
    assert dropped == ("stop",)
    body, dropped = sent(BUDGETS, temperature=1.5)
    assert "temperature" not in body
    assert dropped == ("temperature",)
    body, dropped = sent(BUDGETS, temperature=0.5, top_p=0.5)
    assert "top_p" not in body
    assert dropped == ("top_p",)
    body, dropped = sent(NEW, temperature=0.5, top_p=0.9, top_k=3)
    assert not {"temperature", "top_p", "top_k"} & set(body)
    assert dropped == ("temperature", "top_p", "top_k")


def test_what_anthropic_does_not_know_is_reported_unless_it_asks_for_nothing() -> None:
    unknown: Json = {"seed": 1, "logprobs": True, "frequency_penalty": 1.0, "made_up": 1}
    assert set(sent(**unknown)[1]) == set(unknown)
    assert (
        sent(n=1, frequency_penalty=0.0, logprobs=False, logit_bias={}, top_k=-1, user="u", metadata={})[1] == ()
    )


def test_what_the_row_does_not_take_is_reported_and_not_sent() -> None:
    limited = upstream(BUDGETS, parameters=frozenset({"max_tokens"}))
    translation = translate(asked(temperature=0.5, max_completion_tokens=9), limited)
    assert translation.dropped == ("temperature",)
    assert "temperature" not in translation.body
    assert translation.body["max_tokens"] == 9


def test_several_choices_are_refused_not_reduced_to_one() -> None:
    with pytest.raises(UnsupportedParameter, match="one choice"):
        sent(n=2)


def test_effort_is_adaptive_thinking_on_new_models_and_a_budget_on_older_ones() -> None:
    body, dropped = sent(NEW, reasoning_effort="medium")
    assert body["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert body["output_config"] == {"effort": "medium"}
    assert dropped == ()
    body, _ = sent(BUDGETS, reasoning_effort="medium")
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 8192}
    assert body["max_tokens"] > 8192


def test_a_budget_fits_within_the_callers_tokens_or_is_reported() -> None:
    body, dropped = sent(BUDGETS, reasoning_effort="high", max_tokens=4000)
    assert body["thinking"]["budget_tokens"] == 3000
    assert body["max_tokens"] == 4000
    assert dropped == ()
    body, dropped = sent(BUDGETS, reasoning_effort="high", max_tokens=1000)
    assert "thinking" not in body
    assert dropped == ("reasoning_effort",)


def test_efforts_that_a_model_has_not_are_rounded_down_and_reported() -> None:
    body, dropped = sent("claude-sonnet-4-6", reasoning_effort="xhigh")
    assert body["output_config"]["effort"] == "high"
    assert dropped == ("reasoning_effort",)
    body, dropped = sent(NEW, reasoning_effort="xhigh")
    assert body["output_config"]["effort"] == "xhigh"
    assert dropped == ()


def test_thinking_can_be_switched_off_except_where_it_cannot() -> None:
    body, dropped = sent(NEW, reasoning_effort="none")
    assert body["thinking"] == {"type": "disabled"}
    assert dropped == ()
    body, dropped = sent("claude-fable-5", reasoning_effort="none")
    assert "thinking" not in body
    assert dropped == ("reasoning_effort",)


def test_a_forced_tool_excludes_thinking_and_that_is_reported() -> None:
    body, dropped = sent(NEW, reasoning_effort="high", tools=[tool()], tool_choice="required")
    assert "thinking" not in body
    assert dropped == ("reasoning_effort",)


def test_the_callers_own_thinking_goes_through_as_far_as_the_model_takes_it() -> None:
    native = {"type": "enabled", "budget_tokens": 2000}
    assert sent(BUDGETS, thinking=native)[0]["thinking"] == native
    body, dropped = sent(NEW, thinking=native)
    assert body["thinking"]["type"] == "adaptive"
    assert dropped == ("thinking.budget_tokens",)
    with pytest.raises(InvalidRequest, match="below max_tokens"):
        sent(BUDGETS, thinking=native, max_tokens=2000)


def test_tool_choice_and_parallel_calls_have_their_own_names() -> None:
    assert sent(tools=[tool()], tool_choice="required")[0]["tool_choice"] == {"type": "any"}
    assert sent(tools=[tool()], tool_choice="none")[0]["tool_choice"] == {"type": "none"}
    named = {"type": "function", "function": {"name": "f"}}
    assert sent(tools=[tool()], tool_choice=named)[0]["tool_choice"] == {"type": "tool", "name": "f"}
    alone = sent(tools=[tool()], parallel_tool_calls=False)[0]["tool_choice"]
    assert alone == {"type": "auto", "disable_parallel_tool_use": True}
    with pytest.raises(InvalidRequest, match="no tools"):
        sent(tool_choice="required")


def test_a_schema_is_asked_for_natively_and_bounds_it_cannot_keep_are_reported() -> None:
    bounded = {**CLOSED, "properties": {"a": {"type": "integer", "minimum": 1}}}
    body, dropped = sent(response_format=wanted(bounded))
    schema = body["output_config"]["format"]["schema"]
    assert schema["properties"]["a"] == {"type": "integer", "description": "{minimum: 1}"}
    assert dropped == ("response_format.json_schema.schema.minimum",)


@pytest.mark.parametrize(("model", "schema"), [(NEW, OPEN_SCHEMA), (OLD, CLOSED)])
def test_a_schema_that_cannot_be_asked_for_natively_is_a_forced_tools(model: str, schema: Json) -> None:
    body, dropped = sent(model, response_format=wanted(schema))
    assert body["tools"] == [{"name": ANSWER_TOOL, "description": "Give the answer.", "input_schema": schema}]
    assert body["tool_choice"]["name"] == ANSWER_TOOL
    assert dropped == ("response_format.json_schema.strict",)
    with pytest.raises(UnsupportedParameter, match="beside tools"):
        sent(model, response_format=wanted(schema), tools=[tool()])


def test_strict_tools_are_strict_or_reported() -> None:
    body, dropped = sent(tools=[tool(strict=True)])
    assert body["tools"][0]["strict"] is True
    assert dropped == ()
    body, dropped = sent(tools=[tool(strict=True, parameters=OPEN_SCHEMA)])
    assert "strict" not in body["tools"][0]
    assert body["tools"][0]["input_schema"] == OPEN_SCHEMA
    assert dropped == ("tools.function.strict",)


def test_cache_breakpoints_stay_where_they_were() -> None:
    mark = {"type": "ephemeral", "ttl": "1h"}
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "S", "cache_control": mark}]},
        {
            "role": "user",
            "content": [{"type": "text", "text": "A", "cache_control": mark}, {"type": "text", "text": "B"}],
        },
        {"role": "assistant", "content": "C", "cache_control": mark},
        {"role": "user", "content": "D"},
    ]
    body, dropped = sent(messages=messages, tools=[{**tool(), "cache_control": mark}])
    assert body["system"][0]["cache_control"] == mark
    assert [block.get("cache_control") for turn in body["messages"] for block in turn["content"]] == [
        mark,
        None,
        mark,
        None,
    ]
    assert body["tools"][0]["cache_control"] == mark
    assert dropped == ()


def test_documents_and_images_become_blocks_and_audio_is_a_mismatch() -> None:
    parts: list[Json] = [
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERg==", "filename": "a.pdf"}},
        {"type": "file", "file": {"file_url": "https://example.com/a.pdf"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "high"}},
    ]
    body, dropped = sent(messages=[{"role": "user", "content": parts}])
    pdf, linked, image = body["messages"][0]["content"]
    assert pdf == {
        "type": "document",
        "title": "a.pdf",
        "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="},
    }
    assert linked["source"] == {"type": "url", "url": "https://example.com/a.pdf"}
    assert image["source"] == {"type": "url", "url": "https://example.com/a.png"}
    assert dropped == ("messages.image_url.detail",)
    for part, error in (
        ({"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}, CapabilityMismatch),
        ({"type": "file", "file": {"file_id": "file-1"}}, UnsupportedParameter),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}, UndecodableMedia),
        ({"type": "image_url", "image_url": {"url": "data:image/bmp;base64,AA=="}}, CapabilityMismatch),
        ({"type": "hologram"}, InvalidRequest),
    ):
        with pytest.raises(error):
            sent(messages=[{"role": "user", "content": [part]}])


# ---- schemas


def test_a_schema_is_closed_at_every_depth() -> None:
    inner = {"type": "object", "properties": {"b": {"type": "string", "maxLength": 3}}}
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": inner, "minItems": 2}}}
    closed, described = constrain(schema)
    assert closed["additionalProperties"] is False
    assert closed["properties"]["a"]["items"]["additionalProperties"] is False
    assert set(described) == {"minItems", "maxLength"}


@pytest.mark.parametrize(
    "schema", [OPEN_SCHEMA, {"type": "object"}, {"properties": 5}, {"type": "object", "patternProperties": {}}]
)
def test_an_open_or_broken_schema_cannot_be_closed(schema: Json) -> None:
    with pytest.raises(Inexpressible):
        constrain(schema)


# ---- the stream

BLOCKS: list[Json] = [
    {"type": "thinking", "thinking": "Let me see: ünïcödé 🦊.", "signature": SIGNATURE},
    {"type": "redacted_thinking", "data": "opaque"},
    {"type": "text", "text": "It is a fox 🦊, naturally."},
    {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"city": "Zürich", "n": [1, 2]}},
    {"type": "tool_use", "id": "toolu_2", "name": "g", "input": {}},
]
SHORT: list[Json] = [{"type": "text", "text": "🦊"}, {"type": "tool_use", "id": "t", "name": "f", "input": {}}]
BYTES = b"".join(encode(event) for event in stream_of({"model": NEW, "messages": []}, BLOCKS, "tool_use"))


def read(pieces: list[bytes], *, answer_by_tool: bool = False) -> Json:
    """The answer of a stream that arrives in these pieces."""
    stream = AnthropicStream(upstream(), created=1, answer_by_tool=answer_by_tool)
    reader, assembler = SSEReader(), ChatAssembler()
    for piece in pieces:
        for event in reader.feed(piece):
            for chunk in stream.feed(event.json()):
                assembler.add(chunk)
    stream.close()
    return assembler.result()


def test_every_kind_of_block_has_its_place_in_the_message() -> None:
    answer = read([BYTES])
    message = answer["choices"][0]["message"]
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert message["reasoning_content"] == BLOCKS[0]["thinking"]
    assert message["thinking_blocks"] == BLOCKS[:2]
    assert message["content"] == BLOCKS[2]["text"]
    calls = [
        (c["id"], c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message["tool_calls"]
    ]
    assert calls == [("toolu_1", "f", BLOCKS[3]["input"]), ("toolu_2", "g", {})]


@settings(max_examples=200, deadline=None)
@given(cuts=st.lists(st.integers(0, len(BYTES)), max_size=12).map(sorted))
def test_a_stream_cut_anywhere_gives_the_same_message(cuts: list[int]) -> None:
    edges = [0, *cuts, len(BYTES)]
    assert read([BYTES[a:b] for a, b in pairwise(edges)]) == read([BYTES])


def test_a_stream_cut_between_any_two_bytes_gives_the_same_message() -> None:
    short = b"".join(encode(event) for event in stream_of({"model": NEW, "messages": []}, SHORT, "tool_use"))
    whole = read([short])
    assert all(read([short[:at], short[at:]]) == whole for at in range(len(short)))
    assert read([bytes([byte]) for byte in BYTES]) == read([BYTES])


@settings(max_examples=100, deadline=None)
@given(length=st.integers(0, BYTES.index(b"event: message_delta")))
def test_a_stream_that_ends_too_early_is_broken_never_whole(length: int) -> None:
    with pytest.raises(StreamBroken):
        read([BYTES[:length]])


@pytest.mark.parametrize(
    ("stop", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("a_reason_of_next_year", "stop"),
    ],
)
def test_stop_reasons_have_openais_names(stop: str, finish: str) -> None:
    events = stream_of({"model": NEW, "messages": []}, BLOCKS[2:3], stop)
    assert read([encode(event) for event in events])["choices"][0]["finish_reason"] == finish


def test_a_forced_tools_input_is_the_answers_text() -> None:
    events = stream_of({"model": NEW, "messages": []}, BLOCKS[3:4], "tool_use")
    choice = read([encode(event) for event in events], answer_by_tool=True)["choices"][0]
    assert json.loads(choice["message"]["content"]) == BLOCKS[3]["input"]
    assert choice["finish_reason"] == "stop"
    assert "tool_calls" not in choice["message"]


def test_an_error_within_a_stream_is_typed_by_its_type() -> None:
    stream = AnthropicStream(upstream(), created=1)
    with pytest.raises(UpstreamOverloaded):
        list(stream.feed({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}))
    limits = "You have reached your specified {}API usage limits. You will regain access on 2026-12-01."
    for message in ("Your credit balance is too low to access.", limits.format(""), limits.format("workspace ")):
        used_up = {"type": "invalid_request_error", "message": message}
        assert isinstance(read_stream_error({"error": used_up}, upstream()), UpstreamQuotaExceeded)
    forbidden = {"type": "permission_error", "message": "Your API key may not use this file."}
    assert isinstance(read_stream_error({"error": forbidden}, upstream()), UpstreamForbidden)
    no_room = "input length and `max_tokens` exceed context limit: 199211 + 20000 > 200000, decrease"
    error = read_stream_error({"error": {"type": "invalid_request_error", "message": no_room}}, upstream())
    assert isinstance(error, ContextLengthExceeded)
    assert (error.limit, error.requested) == (200_000, 219_211)


@pytest.mark.parametrize(
    "event",
    [{}, {"type": "content_block_delta", "index": 9, "delta": {}}, {"type": "message_start", "message": 3}],
)
def test_what_is_not_the_wire_is_said_to_be_so(event: Json) -> None:
    with pytest.raises(UpstreamProtocolError):
        list(AnthropicStream(upstream(), created=1).feed(event))


# ---- the whole way


@pytest.fixture
async def fake() -> AsyncIterator[FakeAnthropic]:
    async with FakeAnthropic() as server:
        yield server


async def ask(fake: FakeAnthropic, model: str = NEW, **fields: Any) -> Json:
    there = Upstream(endpoint="a", protocol="anthropic", base_url=fake.origin, model=model, api_key=fake.key)
    assembler = ChatAssembler()
    async with HttpClient() as http:
        backend = AnthropicBackend(http, now=lambda: 5.0)
        assert isinstance(backend, Chat)
        async for chunk in backend.chat(there, asked(**fields)):
            assembler.add(chunk)
    return assembler.result()


@pytest.mark.parametrize("model", [NEW, BUDGETS])
async def test_signed_thinking_goes_round_with_a_tools_result(fake: FakeAnthropic, model: str) -> None:
    question = {"role": "user", "content": "How is it?"}
    first = await ask(fake, model, messages=[question], tools=[tool()], reasoning_effort="high")
    message = first["choices"][0]["message"]
    assert message["reasoning_content"] == THOUGHT
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "Fine."}
    second = await ask(fake, model, messages=[question, message, result], tools=[tool()], reasoning_effort="high")
    assert second["choices"][0]["message"]["content"] == fake.reply
    thinking = fake.calls[1].body["messages"][1]["content"][0]
    assert thinking == {"type": "thinking", "thinking": THOUGHT, "signature": SIGNATURE}


async def test_a_loop_begun_without_thinking_goes_on_without_it(fake: FakeAnthropic) -> None:
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages: list[Json] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t", "content": "Fine."},
    ]
    await ask(fake, BUDGETS, messages=messages, tools=[tool()], reasoning_effort="high")
    assert "thinking" not in fake.calls[0].body


async def test_usage_counts_cached_written_and_reasoning_tokens(fake: FakeAnthropic) -> None:
    part = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}
    answer = await ask(fake, messages=[{"role": "user", "content": [part]}], reasoning_effort="low")
    usage = answer["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 11, "cache_write_tokens": 5}
    assert usage["completion_tokens_details"]["reasoning_tokens"] == len(THOUGHT.split())
    assert usage["prompt_tokens"] > 16
    assert answer["created"] == 5


async def test_the_official_sdk_reads_the_fake_so_its_wire_is_true(fake: FakeAnthropic) -> None:
    async with anthropic.AsyncAnthropic(base_url=fake.origin, api_key=fake.key, max_retries=0) as client:
        plain = await client.messages.create(
            model=NEW, max_tokens=2000, messages=[{"role": "user", "content": "Hi"}], thinking={"type": "adaptive"}
        )
        assert [block.type for block in plain.content] == ["thinking", "text"]
        async with client.messages.stream(
            model=NEW,
            max_tokens=2000,
            messages=[{"role": "user", "content": "Hi"}],
            tools=[{"name": "f", "input_schema": CLOSED}],
        ) as stream:
            final = await stream.get_final_message()
        assert final.stop_reason == "tool_use"
        assert final.content[0].type == "tool_use"
        assert final.content[0].input == {"a": 7}
        fake.script(Fault(status=529, message="Overloaded"))
        with pytest.raises(anthropic.APIStatusError) as caught:
            await client.messages.create(model=NEW, max_tokens=9, messages=[{"role": "user", "content": "Hi"}])
        assert caught.value.type == "overloaded_error"


def test_an_empty_answer_at_the_end_is_left_out() -> None:
    hello = {"role": "user", "content": "Hi"}
    for content in ("", None, [{"type": "text", "text": ""}]):
        body, _ = sent(messages=[hello, {"role": "assistant", "content": content}])
        assert body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
