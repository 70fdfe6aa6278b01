"""Ids and names that no provider takes are refused where the caller wrote them, in each of the three languages."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from backends.wire.chat import ChatRequest
from backends.wire.messages import MessagesRequest
from backends.wire.responses import ResponsesRequest
from catalog.errors import InvalidRequest
from server.edge.json_body import parse
from server.wires.messages.request import to_chat as messages_to_chat
from server.wires.responses.request import to_chat as responses_to_chat

USER = {"role": "user", "content": "Hi"}
NAMES = ["", "an\nswer", "answer\n", "an answer", "a.b", "Größe", "a" * 65]


def called(**changes: Any) -> list[Any]:
    function = {"name": changes.pop("name", "f"), "arguments": "{}"}
    call = {"id": "c", "type": "function", "function": function, **changes}
    return [USER, {"role": "assistant", "content": None, "tool_calls": [call]}]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (called(id=""), "messages[1].tool_calls[0].id"),
        (called(name=""), "messages[1].tool_calls[0].function.name"),
        ([*called(), {"role": "tool", "tool_call_id": "", "content": "x"}], "messages[2].tool_call_id"),
    ],
)
def test_an_empty_id_or_name_of_a_call_in_a_chat_is_refused(messages: list[Any], param: str) -> None:
    with pytest.raises(InvalidRequest, match="at least 1 character") as raised:
        parse(ChatRequest, orjson.dumps({"messages": messages}))
    assert raised.value.param == param


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_a_schema_that_openai_refuses_is_refused(name: str) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": name, "schema": {}}}
    with pytest.raises(InvalidRequest) as raised:
        parse(ChatRequest, orjson.dumps({"messages": [USER], "response_format": wanted}))
    assert raised.value.param == "response_format.json_schema.name"
    text = {"format": {"type": "json_schema", "name": name, "schema": {}}}
    with pytest.raises(InvalidRequest) as raised:
        parse(ResponsesRequest, orjson.dumps({"input": "Hi", "text": text}))
    assert raised.value.param == "text.format.name"


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "function_call", "call_id": "", "name": "f", "arguments": "{}"}, "input[1].call_id"),
        ({"type": "function_call", "call_id": "c", "name": "", "arguments": "{}"}, "input[1].name"),
        ({"type": "function_call_output", "call_id": "", "output": "x"}, "input[1].call_id"),
        ({"type": "function_call_output", "call_id": 5, "output": "x"}, "input[1].call_id"),
    ],
)
def test_an_empty_id_or_name_of_a_call_in_responses_is_refused(item: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest, match="not empty") as raised:
        responses_to_chat(ResponsesRequest.model_validate({"input": [USER, item]}))
    assert raised.value.param == param


@pytest.mark.parametrize(
    ("role", "block", "param"),
    [
        ("assistant", {"type": "tool_use", "id": "", "name": "f", "input": {}}, "messages[0].id"),
        ("assistant", {"type": "tool_use", "id": "c", "name": "", "input": {}}, "messages[0].name"),
        ("user", {"type": "tool_result", "tool_use_id": "", "content": "x"}, "messages[0].tool_use_id"),
    ],
)
def test_an_empty_id_or_name_of_a_call_in_messages_is_refused(
    role: str, block: dict[str, Any], param: str
) -> None:
    body = {"max_tokens": 5, "messages": [{"role": role, "content": [block]}]}
    with pytest.raises(InvalidRequest, match="not empty") as raised:
        messages_to_chat(MessagesRequest.model_validate(body), {})
    assert raised.value.param == param
