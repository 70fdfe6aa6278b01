"""The parts of the engine mlx that need no mlx; ``make engines`` tests it with a model."""

from __future__ import annotations

from typing import Any

import pytest

from backends.wire.chat import ChatRequest
from backends.workers.engines.common.messages import messages_of
from backends.workers.engines.mlx.chat_parser import MlxOutputParser
from catalog.errors import CapabilityMismatch


def chat(*messages: dict[str, Any]) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": list(messages)})


def test_templates_are_given_texts_and_the_arguments_of_calls_as_objects() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    said = messages_of(
        chat(
            {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        ),
        "mlx",
    )
    assert said[0] == {"role": "user", "content": "one two"}
    assert said[1]["content"] == ""
    assert said[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Bern"}}
    assert said[2]["content"] == "sunny"


def test_pictures_are_refused_and_never_fetched() -> None:
    picture = {"type": "image_url", "image_url": {"url": "http://example.com/a.png"}}
    with pytest.raises(CapabilityMismatch, match="image_url"):
        messages_of(chat({"role": "user", "content": [picture]}), "mlx")


class Machine:
    """A stand-in for mlx_lm's TextStateMachine, for text in which states are written as ``tool:...|``."""

    @staticmethod
    def split(state: str, text: str) -> tuple[str, list[tuple[str, str]]]:
        return state, [(name, piece) for part in text.split("|") for name, _, piece in [part.partition(":")]]

    @staticmethod
    def flush(state: str) -> tuple[str, str, str]:
        return state, "", "normal"


def taken(text: str, parse: Any) -> tuple[list[dict[str, Any]], bool]:
    made = MlxOutputParser.__new__(MlxOutputParser)
    made._machine, made._state, made._parse = Machine, "", parse
    made._tools, made._call, made._calls, made.called = [], "", 0, False
    return list(made.take(text, last=True)), made.called


def test_thinking_calls_and_content_are_told_apart() -> None:
    deltas, called = taken(
        "reasoning:hm|normal:let me see|tool:x", lambda *_: {"name": "weather", "arguments": {"city": "Zürich"}}
    )
    assert deltas[:2] == [{"reasoning_content": "hm"}, {"content": "let me see"}]
    (call,) = deltas[2]["tool_calls"]
    assert (call["index"], call["type"]) == (0, "function")
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Zürich"}'}
    assert called


def test_several_calls_count_on_and_a_broken_one_is_shown_as_text() -> None:
    def parse(text: str, _: Any) -> Any:
        if text == "broken":
            raise ValueError(text)
        return [{"name": text, "arguments": {}}, {"name": text, "arguments": {}}]

    deltas, called = taken("tool:a|normal:-|tool:b|normal:-|tool:broken", parse)
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert [call["index"] for call in calls] == [0, 1, 2, 3]
    assert deltas[-1] == {"content": "broken"}
    assert called
