"""Any conversation reaches the Responses API whole: each part arrives, or its loss is named."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.base import Upstream
from backends.openai.parameters import OPENAI
from backends.openai.responses.request import translate
from backends.wire.chat import ChatRequest
from catalog.types import Json
from tests.fakes.openai_responses import mistake_in

HERE = Upstream("openai", "openai", "https://api.openai.com/v1", "gpt-6", wire="responses", reasons=True)
SCHEMA: Json = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS: list[Json] = [
    {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}},
    {"type": "custom", "custom": {"name": "shell"}},
]


class Planted:
    """Makes the parts of a conversation, each with a mark of its own that must arrive."""

    def __init__(self) -> None:
        self._numbers = count()
        self.marks: list[str] = []
        self.lost: set[str] = set()

    def mark(self) -> str:
        self.marks.append(f"planted{next(self._numbers)}x")
        return self.marks[-1]

    def part(self, kind: str) -> Json:
        mark = self.mark()
        match kind:
            case "image":
                return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{mark}"}}
            case "file":
                return {
                    "type": "file",
                    "file": {"file_data": f"data:application/pdf;base64,{mark}", "filename": "a"},
                }
        return {"type": "text", "text": mark}

    def thoughts(self, kind: str, before: str | None) -> list[Json]:
        if kind == "own":
            named = {"id": f"rs_{len(self.marks)}", "endpoint": "openai", "before": before}
            return [{"type": "reasoning", "summary": [], "encrypted_content": self.mark(), **named}]
        if kind == "foreign":
            self.lost.add("messages.thinking_blocks")
            return [{"type": "thinking", "thinking": "Hm.", "signature": "s"}]
        return []

    def turn(self, drawn: Json) -> list[Json]:
        """One drawn turn: a user's message, or an assistant's with the results of its calls."""
        if drawn["role"] != "assistant":
            parts = drawn["parts"] if drawn["role"] == "user" else ["text"]
            return [{"role": drawn["role"], "content": [self.part(kind) for kind in parts]}]
        calls = [self.call(custom) for custom in drawn["calls"]]
        message: Json = {"role": "assistant", "content": self.mark() if drawn["says"] or not calls else None}
        blocks = self.thoughts(drawn["thinks"], calls[0]["id"] if calls else None)
        if blocks:
            message["thinking_blocks"] = blocks
        if calls:
            message["tool_calls"] = calls
        results = [
            {"role": "tool", "tool_call_id": call["id"], "content": [self.part(kind) for kind in drawn["parts"]]}
            for call in calls
        ]
        return [message, *results]

    def call(self, custom: bool) -> Json:
        call_id = self.mark()
        if custom:
            return {"id": call_id, "type": "custom", "custom": {"name": "shell", "input": self.mark()}}
        arguments = json.dumps({"city": self.mark()})
        return {"id": call_id, "type": "function", "function": {"name": "weather", "arguments": arguments}}


PARTS = st.lists(st.sampled_from(["text", "image", "file"]), min_size=1, max_size=3)
TURN = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "user", "assistant", "assistant", "system", "developer"]),
        "parts": PARTS,
        "says": st.booleans(),
        "thinks": st.sampled_from(["own", "foreign", "none"]),
        "calls": st.lists(st.booleans(), max_size=3),
    }
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(TURN, min_size=1, max_size=6))
def test_each_part_of_a_conversation_arrives_or_its_loss_is_named(drawn: list[Any]) -> None:
    planted = Planted()
    messages = [message for turn in drawn for message in planted.turn(turn)]
    request = ChatRequest.model_validate({"model": "m", "messages": messages, "tools": TOOLS})
    made = translate(request, HERE, OPENAI)
    assert mistake_in(made.body) is None
    assert set(made.dropped) == planted.lost
    sent = json.dumps(made.body["input"])
    assert all(mark in sent for mark in planted.marks)
    asked = [
        item["call_id"] for item in made.body["input"] if item["type"] in ("function_call", "custom_tool_call")
    ]
    answers = [item["call_id"] for item in made.body["input"] if item["type"].endswith("_output")]
    assert asked == answers
    outputs = {item["call_id"]: item["type"] for item in made.body["input"] if item["type"].endswith("_output")}
    for item in made.body["input"]:
        if item["type"] in ("function_call", "custom_tool_call"):
            assert outputs[item["call_id"]] == f"{item['type']}_output"
