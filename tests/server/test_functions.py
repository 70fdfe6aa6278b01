"""Clients of 2023 send ``functions`` and read ``function_call``, whatever model answers them."""

from __future__ import annotations

from typing import Any

import httpx
import orjson
import pytest

from backends.wire.chat import ChatRequest
from catalog.errors import InvalidRequest
from catalog.types import Json
from server.functions import as_function_call, with_tools
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.openai import FakeOpenAI
from tests.server.api.test_chat import events
from tests.server.wires.test_native import client, fake, other

__all__ = ["client", "fake", "other"]
USER = {"role": "user", "content": "What is the weather in Paris?"}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Json = {"name": "weather", "description": "The weather.", "parameters": PARAMETERS}
CALL = {"name": "weather", "arguments": '{"city": "Paris"}'}
CALLED = {"role": "assistant", "content": None, "function_call": CALL}
RESULT = {"role": "function", "name": "weather", "content": "Sunny."}


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [USER], **fields})


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        (None, {"parallel_tool_calls": False}),
        ("auto", {"tool_choice": "auto", "parallel_tool_calls": False}),
        ("none", {"tool_choice": "none"}),
        (
            {"name": "weather"},
            {
                "tool_choice": {"type": "function", "function": {"name": "weather"}},
                "parallel_tool_calls": False,
            },
        ),
    ],
)
def test_functions_and_their_choice_become_tools(choice: Any, wanted: Json) -> None:
    given = {} if choice is None else {"function_call": choice}
    made = with_tools(chat(functions=[WEATHER], temperature=0.5, **given)).to_wire()
    tools = [{"type": "function", "function": WEATHER}]
    assert made == {"model": "m", "messages": [USER], "temperature": 0.5, "tools": tools, **wanted}


def test_a_conversation_of_functions_becomes_one_of_tools() -> None:
    messages = [
        USER,
        CALLED,
        RESULT,
        {**CALLED, "content": "Again."},
        RESULT,
        {"role": "assistant", "content": "x"},
    ]
    made = with_tools(chat(messages=messages)).to_wire()["messages"]
    first, second = made[1]["tool_calls"][0], made[3]["tool_calls"][0]
    assert first == {"id": first["id"], "type": "function", "function": CALL}
    assert first["id"] != second["id"]
    assert made[2] == {"role": "tool", "tool_call_id": first["id"], "content": "Sunny."}
    assert made[4]["tool_call_id"] == second["id"]
    assert (made[1]["content"], made[3]["content"], made[5]) == (None, "Again.", messages[5])
    assert not [message for message in made if "function_call" in message]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": [{"type": "function", "function": WEATHER}]},
        {"messages": [USER, {"role": "assistant", "content": "x", "function_call": None}]},
    ],
)
def test_a_request_without_functions_stays_the_same_object(fields: Json) -> None:
    body = chat(**fields)
    assert with_tools(body) is body


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": 5}, "functions"),
        ({"functions": [5]}, "functions.0"),
        ({"functions": [{}]}, "functions.0.name"),
        ({"functions": [{"name": ""}]}, "functions.0.name"),
        ({"functions": [WEATHER], "tools": [{"type": "function", "function": WEATHER}]}, "functions"),
        ({"functions": [WEATHER], "function_call": "required"}, "function_call"),
        ({"functions": [WEATHER], "function_call": {}}, "function_call"),
        ({"function_call": {"name": "weather"}}, "function_call"),
        ({"messages": [USER, RESULT]}, "messages[1]"),
        ({"messages": [USER, CALLED, RESULT, RESULT]}, "messages[3]"),
        ({"messages": [USER, {**CALLED, "function_call": {"name": ""}}]}, "messages.1.function_call.name"),
    ],
)
def test_a_malformed_use_of_functions_is_refused_in_the_callers_own_terms(fields: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        with_tools(chat(**fields))
    assert (refused.value.param or "").startswith(param)


def test_of_several_calls_the_first_is_the_functions() -> None:
    calls = [
        {
            "index": 0,
            "id": "a",
            "type": "function",
            "function": {"name": "f", "arguments": ""},
            "extra_content": {"s": 1},
        },
        {"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    made = as_function_call(
        {"choices": [{"index": 0, "delta": {"tool_calls": calls}, "finish_reason": "tool_calls"}]}
    )
    assert made["choices"][0] == {
        "index": 0,
        "delta": {"function_call": {"name": "f", "arguments": "", "extra_content": {"s": 1}}},
        "finish_reason": "function_call",
    }


@pytest.mark.parametrize("model", ["claude", "gpt"])
@pytest.mark.parametrize("stream", [False, True])
async def test_any_model_that_takes_tools_answers_with_a_function_call(
    client: httpx.AsyncClient, fake: FakeAnthropic, other: FakeOpenAI, model: str, stream: bool
) -> None:
    body: Json = {"model": model, "messages": [USER], "functions": [WEATHER], "stream": stream}
    first = await client.post("/v1/chat/completions", json=body)
    assert first.status_code == 200, first.text
    if stream:
        chunks = [event["choices"][0] for event in events(first.text) if event != "[DONE]"]
        parts = [chunk["delta"]["function_call"] for chunk in chunks if "function_call" in chunk["delta"]]
        call = {name: "".join(part.get(name, "") for part in parts) for name in ("name", "arguments")}
        end = chunks[-1]["finish_reason"]
        assert not [chunk for chunk in chunks if "tool_calls" in chunk["delta"]]
    else:
        choice = first.json()["choices"][0]
        call, end = choice["message"]["function_call"], choice["finish_reason"]
        assert choice["message"]["content"] is None
        assert "tool_calls" not in choice["message"]
    assert (call["name"], end) == ("weather", "function_call")
    assert "city" in orjson.loads(call["arguments"])
    body["messages"] = [USER, {"role": "assistant", "content": None, "function_call": call}, RESULT]
    second = await client.post("/v1/chat/completions", json=body | {"stream": False})
    assert second.json()["choices"][0]["finish_reason"] == "stop"
    asked = (fake if model == "claude" else other).calls
    assert len(asked) == 2
    assert "functions" not in asked[0].body


async def test_a_caller_of_tools_with_an_old_conversation_gets_tool_calls(client: httpx.AsyncClient) -> None:
    tools = [{"type": "function", "function": WEATHER}]
    body = {"model": "claude", "messages": [USER, CALLED, RESULT], "tools": tools, "tool_choice": "required"}
    answer = (await client.post("/v1/chat/completions", json=body)).json()["choices"][0]
    assert answer["message"]["tool_calls"][0]["function"]["name"] == "weather"
