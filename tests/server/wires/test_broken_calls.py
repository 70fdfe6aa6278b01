"""Calls whose arguments are no object: wrapped at the Messages door, in streams too, and taken back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.anthropic.native import native_request
from backends.base import Upstream
from backends.streams.chunks import ChunkWriter
from backends.wire.chat import Original
from backends.wire.messages import MessagesRequest
from server.wires.messages import MessageStream, to_chat


@pytest.mark.parametrize("finish", ["stop", "length"])
@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize(
    "pieces",
    [('["a"]',), ("[", '"a"]'), (" ", '"text"'), ("null",), ("say hi",), (" ", '{"a":', " 1}"), ("",)],
    ids=str,
)
def test_a_streamed_call_has_the_input_of_a_whole_one_and_goes_back(
    pieces: tuple[str, ...], finish: str, *, calls: int
) -> None:
    writer = ChunkWriter("chatcmpl-1", "m", 1)
    stream = MessageStream("msg_1")
    chunks = [writer.tool_start(at, f"t{at}", "f") for at in range(calls)]
    chunks += [writer.tool_arguments(at, piece) for piece in pieces for at in range(calls)]
    chunks.append(writer.delta({}, finish_reason=finish))
    events = [event for chunk in chunks for event in stream.feed(chunk)] + list(stream.finish())
    told: dict[int, str] = {}
    for event in events:
        if event["type"] == "content_block_delta":
            told[event["index"]] = told.get(event["index"], "") + event["delta"]["partial_json"]
    blocks = stream.message()["content"]
    assert len(blocks) == calls
    for at, block in enumerate(blocks):
        assert isinstance(block["input"], dict)
        assert json.loads(told.get(at, "{}")) == block["input"]
    assert conversation_with(blocks[0]["input"]) == json.dumps(blocks[0]["input"], separators=(",", ":"))


def conversation_with(given: Any) -> str:
    """The arguments in a chat of a past call with this input."""
    call = {"type": "tool_use", "id": "t", "name": "f", "input": given}
    result = {"type": "tool_result", "tool_use_id": "t", "content": "no"}
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [call]}]
    body = {"model": "m", "max_tokens": 9, "messages": [*turns, {"role": "user", "content": [result]}]}
    made = (to_chat(MessagesRequest.model_validate(body)).messages[1].tool_calls or [])[0]
    assert made.function is not None
    return made.function.arguments


@pytest.mark.parametrize(
    ("given", "text"), [(["a"], '["a"]'), ("say hi", "say hi"), (None, "null"), (1, "1")], ids=repr
)
def test_a_past_call_whose_input_is_no_object_is_wrapped(given: Any, text: str) -> None:
    assert json.loads(conversation_with(given)) == {"INVALID_JSON": text}
    block = {"type": "tool_use", "id": "t", "name": "f", "input": given}
    turns = [{"role": "assistant", "content": [block]}]
    request = MessagesRequest.model_validate({"model": "m", "max_tokens": 9, "messages": turns})
    upstream = Upstream("a", "anthropic", "https://api.anthropic.com", "claude")
    (sent,) = native_request(Original("messages", request), upstream).body["messages"]
    assert sent["content"][0]["input"] == {"INVALID_JSON": text}
