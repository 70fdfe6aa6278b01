"""A session with OpenAI's SDK, in text: configuration, items, responses, functions, cancelling, errors."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from openai.types.realtime import (
    RealtimeErrorEvent,
    ResponseDoneEvent,
)

from catalog.errors import UpstreamOverloaded
from tests.server.conftest import Start
from tests.server.fakes import chunk, usage_chunk
from tests.server.realtime.conversing import connected, of_type, say, types, until

TEXT: Any = {"type": "realtime", "output_modalities": ["text"]}
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


async def test_a_session_tells_its_configuration_with_openais_defaults(serve: Start) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        await connection.session.update(session={"type": "realtime"})
        (event,) = await until(connection, "session.updated")
    session = event.session
    assert session.model == "parrot"
    assert session.output_modalities == ["audio"]
    assert session.audio.input.turn_detection.type == "server_vad"
    assert session.audio.input.turn_detection.silence_duration_ms == 500
    assert session.audio.input.format.type == "audio/pcm"
    assert session.audio.output.format.rate == 24000
    assert session.max_output_tokens == "inf"


async def test_a_text_conversation_is_told_in_openais_events(serve: Start) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        await connection.session.update(session=TEXT)
        await say(connection, "Hi")
        events = await until(connection, "response.done")
        await say(connection, "And again")
        more = await until(connection, "response.done")
    assert types(events) == [
        "session.updated",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    done: ResponseDoneEvent = events[-1]
    assert done.response.status == "completed"
    assert done.response.output is not None
    assert done.response.output[0].content[0].text == "Hello there"  # type: ignore[union-attr]
    assert done.response.usage is not None
    assert (done.response.usage.input_tokens, done.response.usage.output_tokens) == (3, 2)
    assert done.response.conversation_id is not None
    assert done.response.conversation_id.startswith("conv_")
    assert len({event.event_id for event in events + more}) == len(events) + len(more)
    asked = gateway.backend.requests[-1].messages
    assert [(message.role, message.content) for message in asked][1:] == [
        ("user", "Hi"),
        ("assistant", "Hello there"),
        ("user", "And again"),
    ]
    assert asked[0].role == "system"


async def test_a_function_call_and_its_result(serve: Start) -> None:
    call = {"index": 0, "id": "call_7", "function": {"name": "get_weather", "arguments": '{"ci'}}
    rest = {"index": 0, "function": {"arguments": 'ty": "Oslo"}'}}
    async with serve() as gateway, connected(gateway) as connection:
        tools: Any = {**TEXT, "tools": [WEATHER], "tool_choice": "required"}
        await connection.session.update(session=tools)
        gateway.backend.script = (
            {**chunk(), "choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]},
            {**chunk(), "choices": [{"index": 0, "delta": {"tool_calls": [rest]}, "finish_reason": None}]},
            chunk(finish="tool_calls"),
            usage_chunk(),
        )
        await say(connection, "The weather in Oslo?")
        events = await until(connection, "response.done")
        (item,) = events[-1].response.output
        assert (item.type, item.name, item.call_id, item.arguments) == (
            "function_call",
            "get_weather",
            "call_7",
            '{"city": "Oslo"}',
        )
        deltas = of_type(events, "response.function_call_arguments.delta")
        assert "".join(event.delta for event in deltas) == '{"city": "Oslo"}'
        assert gateway.backend.requests[-1].tool_choice == "required"
        gateway.backend.script = (chunk("It rains."), chunk(finish="stop"), usage_chunk())
        await connection.conversation.item.create(
            item={"type": "function_call_output", "call_id": "call_7", "output": "rain"}
        )
        await connection.response.create()
        await until(connection, "response.done")
    messages = gateway.backend.requests[-1].messages
    assert messages[-2].tool_calls[0].function.name == "get_weather"
    assert (messages[-1].role, messages[-1].content) == ("tool", "rain")


async def test_a_call_without_its_result_does_not_break_the_next_response(serve: Start) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        await connection.session.update(session=TEXT)
        await connection.conversation.item.create(
            item={"type": "function_call", "name": "get_weather", "arguments": "{}", "call_id": "call_1"}
        )
        await say(connection, "Never mind")
        await until(connection, "response.done")
    assert [message.role for message in gateway.backend.requests[-1].messages] == [
        "system",
        "assistant",
        "tool",
        "user",
    ]


def assert_told_and_counted(response: Any) -> None:
    """An answer that was cut short costs what came of it."""
    told = response.roundhouse
    assert (told["model"], bool(told["trace"])) == ("parrot", True)
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (3, 1, 4)


async def test_cancelling_ends_a_response_and_its_upstream(serve: Start) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        await connection.session.update(session=TEXT)
        gateway.backend.script = (chunk("Once"), asyncio.Event())
        await say(connection, "A story")
        events = await until(connection, "response.output_text.delta")
        await connection.response.cancel()
        events = await until(connection, "response.done")
        assert events[-1].response.status == "cancelled"
        assert events[-1].response.status_details.reason == "client_cancelled"
        assert events[-1].response.output[0].status == "incomplete"
        assert_told_and_counted(events[-1].response)
        await asyncio.wait_for(gateway.backend.closed.wait(), 5)
        await connection.response.cancel(event_id="mine")
        error: RealtimeErrorEvent = (await until(connection, "error"))[-1]
    assert (error.error.code, error.error.event_id) == ("response_cancel_not_active", "mine")


async def test_one_response_at_a_time_writes_to_the_conversation_and_others_run_beside_it(serve: Start) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        await connection.session.update(session=TEXT)
        gateway.backend.script = (chunk("Once"), asyncio.Event())
        await say(connection, "A story")
        await until(connection, "response.output_text.delta")
        await connection.response.create()
        (error,) = await until(connection, "error")
        assert error.error.code == "conversation_already_has_active_response"
        gateway.backend.script = (chunk("chat"), chunk(finish="stop"), usage_chunk())
        await connection.response.create(
            response={
                "conversation": "none",
                "metadata": {"topic": "kind"},
                "instructions": "Classify.",
                "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
            }
        )
        events = await until(connection, "response.done")
        done = events[-1].response
        assert done.metadata == {"topic": "kind"}
        assert done.conversation_id is None
        assert "conversation.item.added" not in types(events)
        messages = gateway.backend.requests[-1].messages
        assert [message.content for message in messages] == ["Classify.", "Hi"]


async def test_a_models_error_fails_the_response_and_not_the_session(serve: Start) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        await connection.session.update(session=TEXT)
        gateway.backend.script = (chunk("Once"), UpstreamOverloaded("Too busy."))
        await say(connection, "Hi")
        failed = (await until(connection, "response.done"))[-1].response
        assert failed.status == "failed"
        assert failed.status_details.error.code == "upstream_overloaded"
        assert_told_and_counted(failed)
        gateway.backend.script = (chunk("Fine"), chunk(finish="length"), usage_chunk())
        await connection.response.create()
        done = (await until(connection, "response.done"))[-1].response
        assert (done.status, done.status_details.reason) == ("incomplete", "max_output_tokens")


async def test_items_are_inserted_retrieved_and_deleted(serve: Start) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        await connection.session.update(session=TEXT)
        for name, after in (("b", None), ("a", "root"), ("c", "b")):
            place: Any = {} if after is None else {"previous_item_id": after}
            await connection.conversation.item.create(
                item={
                    "type": "message",
                    "role": "user",
                    "id": name,
                    "content": [{"type": "input_text", "text": name}],
                },
                **place,
            )
        await connection.conversation.item.delete(item_id="b")
        await connection.conversation.item.retrieve(item_id="c")
        events = await until(connection, "conversation.item.retrieved")
        assert [event.previous_item_id for event in of_type(events, "conversation.item.added")] == [
            None,
            None,
            "b",
        ]
        await connection.conversation.item.retrieve(item_id="b")
        assert (await until(connection, "error"))[-1].error.code == "not_found"
        await connection.response.create()
        await until(connection, "response.done")
    assert [message.content for message in gateway.backend.requests[-1].messages][1:] == ["a", "c"]


@pytest.mark.parametrize(
    ("event", "param"),
    [
        ("not json", None),
        ("[]", None),
        ('{"type": "guess"}', "type"),
        ('{"type": ["session.update"]}', "type"),
        ('{"type": "session.update"}', "session"),
        ('{"type": "session.update", "session": {"output_modalities": ["smell"]}}', "output_modalities[0]"),
        ('{"type": "session.update", "session": {"model": "other"}}', "session.model"),
        ('{"type": "session.update", "session": {"prompt": {"id": "pmpt_1"}}}', "session.prompt"),
        ('{"type": "input_audio_buffer.append", "audio": "*"}', "audio"),
        ('{"type": "input_audio_buffer.append", "audio": "AAAA"}', "audio"),
        ('{"type": "input_audio_buffer.commit"}', None),
        ('{"type": "output_audio_buffer.clear"}', "type"),
        ('{"type": "conversation.item.create", "item": {"type": "mcp_call"}}', "item.type"),
        ('{"type": "conversation.item.truncate", "item_id": "x", "audio_end_ms": 1}', "item_id"),
        ('{"type": "response.create", "response": {"conversation": "other"}}', "response.conversation"),
        ('{"type": "response.create", "response": {"output_modalities": []}}', "response.output_modalities"),
    ],
)
async def test_a_wrong_event_is_answered_by_an_error_that_names_it(
    serve: Start, event: str, param: str | None
) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        await connection.send_raw(event)
        (error,) = await until(connection, "error")
        assert error.error.type == "invalid_request_error"
        assert error.error.param == param
        assert error.error.message
        await connection.session.update(session=TEXT)
        await until(connection, "session.updated")


@pytest.mark.parametrize("asked", [{"strict": True}, {"routing": {"strict": True}}], ids=["beside", "routing"])
async def test_what_has_no_effect_is_named_and_refused_in_a_strict_session(serve: Start, asked: Any) -> None:
    wanted: Any = {
        "type": "realtime",
        "tracing": "auto",
        "audio": {"input": {"noise_reduction": {"type": "near_field"}}},
    }
    async with serve() as gateway, connected(gateway) as connection:
        await connection.session.update(session=wanted)
        (event,) = await until(connection, "session.updated")
        assert event.session.model_extra["dropped"] == ["audio.input.noise_reduction", "tracing"]
        assert event.session.audio.input.noise_reduction is None
        strict: Any = {**wanted, **asked}
        await connection.session.update(session=strict)
        (error,) = await until(connection, "error")
    assert error.error.code == "unsupported_parameter"


async def test_a_response_tells_which_model_answered_and_why(serve: Start) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        await connection.session.update(session=TEXT)
        await say(connection, "Hi")
        told = (await until(connection, "response.done"))[-1].response.model_extra["roundhouse"]
    assert told["model"] == "parrot"
    assert told["reason"] == "named by the caller"
    assert len(told["trace"]) == 32
