"""Any conversation reaches Ollama whole: each part arrives in a body of its SDK's types, results in order."""

from __future__ import annotations

import base64
import json
from itertools import count
from typing import Any

import ollama
from hypothesis import given, settings
from hypothesis import strategies as st
from ollama._types import ChatRequest as Request

from backends.base import Upstream
from backends.ollama.request import translate
from backends.wire.chat import ChatRequest
from catalog.types import Json
from tests.fakes.ollama import checked

HERE = Upstream("lan", "ollama", "http://127.0.0.1:1", "qwen3")
TOOL: Json = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


class Planted:
    """Makes the parts of a conversation, each with a mark of its own that must arrive."""

    def __init__(self) -> None:
        self._numbers = count()
        self.marks: list[str] = []

    def mark(self) -> str:
        self.marks.append(f"planted{next(self._numbers)}x")
        return self.marks[-1]

    def part(self, kind: str) -> Json:
        if kind == "text":
            return {"type": "text", "text": self.mark()}
        data = base64.b64encode(self.mark().encode()).decode()
        self.marks[-1] = data
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}

    def turn(self, drawn: Json) -> list[Json]:
        """One drawn turn: a message, or an assistant's with the results of its calls in the drawn order."""
        parts = drawn["parts"]
        if drawn["role"] == "user":
            return [{"role": "user", "content": [self.part(kind) for kind in parts]}]
        if drawn["role"] == "system":
            return [{"role": "system", "content": self.mark()}]
        message: Json = {"role": "assistant", "content": self.mark()}
        if drawn["thinks"]:
            message["reasoning_content"] = self.mark()
        ids = [f"call{next(self._numbers)}" for _ in range(drawn["calls"])]
        function = {"name": "weather"}
        calls = [
            {"id": one, "type": "function", "function": {**function, "arguments": json.dumps({"a": self.mark()})}}
            for one in ids
        ]
        results = [{"role": "tool", "tool_call_id": one, "content": f"{one} {self.mark()}"} for one in ids]
        return [message | ({"tool_calls": calls} if calls else {}), *(results[::-1] if drawn["late"] else results)]


TURN = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system"]),
        "parts": st.lists(st.sampled_from(["text", "image"]), min_size=1, max_size=3),
        "thinks": st.booleans(),
        "calls": st.integers(0, 3),
        "late": st.booleans(),
    }
)


@settings(max_examples=150, deadline=None)
@given(turns=st.lists(TURN, min_size=1, max_size=6), choice=st.sampled_from([None, "auto", "required", "none"]))
def test_each_part_of_any_conversation_arrives(turns: list[Json], choice: str | None) -> None:
    planted = Planted()
    messages = [message for turn in turns for message in planted.turn(turn)]
    fields: dict[str, Any] = {"tools": [TOOL], "tool_choice": choice} if choice else {}
    made = translate(ChatRequest.model_validate({"model": "m", "messages": messages, **fields}), HERE)
    assert made.dropped == ()
    checked(Request, made.body, beside=frozenset({"truncate", "shift"}))
    for message in made.body["messages"]:
        images = [{"value": image} for image in message.get("images") or ()]
        checked(ollama.Message, {**message, "images": images} if images else message)
    sent = json.dumps(made.body)
    assert [mark for mark in planted.marks if mark not in sent] == []
    results = [message["content"].split()[0] for message in made.body["messages"] if message["role"] == "tool"]
    asked = [call["id"] for message in messages for call in message.get("tool_calls") or ()]
    assert results == asked
