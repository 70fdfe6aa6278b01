"""Ids of calls and schemas that fit what a provider allows."""

from __future__ import annotations

import re

import pytest

from backends.adapting.schemas import closed, is_closed
from backends.anthropic.request import translate
from backends.base import Upstream
from backends.wire.chat import ChatRequest
from catalog.types import Json


def test_ids_of_calls_are_ones_that_anthropic_allows_and_blank_answers_are_left_out() -> None:
    calls = [
        {"id": given, "type": "function", "function": {"name": "f", "arguments": "{}"}}
        for given in ("functions.f:0", "fine-1")
    ]
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "  \n", "tool_calls": calls},
        *({"role": "tool", "tool_call_id": call["id"], "content": "1"} for call in calls),
    ]
    request = ChatRequest.model_validate({"model": "m", "messages": messages})
    body = translate(request, Upstream("a", "anthropic", "http://127.0.0.1:1", "claude-sonnet-5")).body
    made, answered = body["messages"][1]["content"], body["messages"][2]["content"]
    assert [block["type"] for block in made] == ["tool_use", "tool_use"]
    assert [block["id"] for block in made] == [block["tool_use_id"] for block in answered]
    assert re.fullmatch("[a-zA-Z0-9_-]+", made[0]["id"])
    assert made[1]["id"] == "fine-1"


@pytest.mark.parametrize(
    ("schema", "closed"),
    [
        ({"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}, True),
        ({"type": "object", "properties": {"a": {}}, "required": [], "additionalProperties": False}, False),
        ({"type": "object", "properties": {}, "additionalProperties": True}, False),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}}, False),
        ({"type": "array"}, False),
    ],
)
def test_strict_schemas_are_told_from_others(schema: Json, closed: bool) -> None:
    assert is_closed(schema) is closed


TEXT = {"type": "string"}
INNER = {"type": "object", "properties": {"a": TEXT}}
CLOSED = {**INNER, "additionalProperties": False}


@pytest.mark.parametrize(
    ("given", "made"),
    [
        (INNER, CLOSED),
        (
            {"properties": {"properties": INNER}},
            {"properties": {"properties": CLOSED}, "additionalProperties": False},
        ),
        ({"type": "array", "items": INNER}, {"type": "array", "items": CLOSED}),
        ({"anyOf": [INNER, {"type": "null"}]}, {"anyOf": [CLOSED, {"type": "null"}]}),
        ({"$ref": "#/$defs/x", "$defs": {"x": INNER}}, {"$ref": "#/$defs/x", "$defs": {"x": CLOSED}}),
        ({"type": "object", "additionalProperties": INNER}, {"type": "object", "additionalProperties": CLOSED}),
    ],
    ids=["object", "property of that name", "items", "branch", "definition", "map"],
)
def test_a_closed_schema_has_no_room_for_properties_that_it_does_not_name(given: Json, made: Json) -> None:
    assert closed(given) == made


@pytest.mark.parametrize(
    "given",
    [
        {**INNER, "additionalProperties": True},
        {**INNER, "patternProperties": {"^x": TEXT}},
        {"properties": {"a": TEXT}, "anyOf": [{"properties": {"b": TEXT}}, {"properties": {"c": TEXT}}]},
        {"$ref": "#/$defs/x", "$defs": {"x": INNER, "y": {"allOf": [{"$ref": "#/$defs/x"}, INNER]}}},
        {"type": "object"},
    ],
    ids=["open", "pattern", "branches beside properties", "allOf", "any object"],
)
def test_a_schema_that_speaks_of_other_properties_stays_as_it_is(given: Json) -> None:
    assert closed(given) == given
