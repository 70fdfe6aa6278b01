"""A program's verdict on an answer: valid, invalid, or nothing."""

from __future__ import annotations

from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.wire.chat import ChatRequest
from routing.calling.watching.judgement import insists, judge_for
from routing.calling.watching.validation import conforms, judge

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 1}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}


def asked(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "?"}], **fields})


def format_of(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}


def call(name: str, arguments: str) -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}


TOOLS = [{"type": "function", "function": {"name": "save", "parameters": PERSON}}]


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ('{"name": "Ada", "age": 36}', True),
        ('{"name": "Ada", "age": 36.5}', False),
        ('{"name": ""}', False),
        ('{"age": 3}', False),
        ('{"name": "Ada", "x": 1}', False),
        ('Sure! {"name": "Ada"}', False),
        ('{"name": "Ada"', False),
        ('{"name": NaN}', False),
        ("[" * 100_000, False),
    ],
)
def test_an_answer_is_held_to_its_schema(text: str, verdict: bool) -> None:
    assert judge(asked(response_format=format_of(PERSON)), text=text) is verdict


def test_nothing_is_said_of_free_text() -> None:
    assert judge(asked(), text="anything") is None
    assert judge(asked(response_format={"type": "text"}), text="anything") is None


def test_a_json_object_is_an_object() -> None:
    wanted = asked(response_format={"type": "json_object"})
    assert judge(wanted, text="{}") is True
    assert judge(wanted, text="[]") is False


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (call("save", '{"name": "Ada"}'), True),
        (call("save", '{"name": 1}'), False),
        (call("save", "{"), False),
        (call("save", "[]"), False),
        (call("drop", "{}"), False),
    ],
)
def test_tool_calls_name_a_tool_and_fit_its_parameters(made: dict[str, Any], verdict: bool) -> None:
    assert judge(asked(tools=TOOLS), text=None, tool_calls=[made]) is verdict


def test_a_call_that_was_required_and_not_made_is_invalid() -> None:
    assert judge(asked(tools=TOOLS, tool_choice="required"), text="no") is False
    assert judge(asked(tools=TOOLS), text="no") is None


@pytest.mark.parametrize(("mode", "verdict"), [("auto", None), ("required", False)])
def test_a_choice_among_allowed_tools_demands_a_call_in_the_mode_required_alone(mode: str, verdict: bool) -> None:
    allowed = {"mode": mode, "tools": [{"type": "function", "function": {"name": "save"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    assert judge(asked(tools=TOOLS, tool_choice=choice), text="no") is verdict


def test_what_cannot_be_checked_is_not_judged() -> None:
    endless = {"$ref": "#"}
    assert conforms(1, endless) is None
    assert conforms(1, {"$ref": "https://elsewhere/schema"}) is None
    assert conforms(1, {"type": "whole"}) is None
    wide = {"type": "array", "items": {"anyOf": [{"type": "string"}] * 100}}
    assert conforms([1] * 10_000, wide) is False
    assert conforms(["x"] * 100_000, {"type": "array", "items": {"type": "string"}}) is None


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from([0.5, 1.0, 2.5])
    | st.sampled_from(["", "a", "bb"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
SCHEMAS = st.recursive(
    st.one_of(
        st.booleans(),
        st.fixed_dictionaries(
            {"type": st.sampled_from(["string", "integer", "number", "object", "array", "null"])}
        ),
        st.fixed_dictionaries({"enum": st.lists(VALUES, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"const": VALUES}),
        st.fixed_dictionaries({"minimum": st.integers(-2, 2), "exclusiveMaximum": st.integers(-1, 3)}),
        st.fixed_dictionaries({"minLength": st.integers(0, 2), "maxItems": st.integers(0, 2)}),
    ),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"oneOf": st.lists(inner, min_size=1, max_size=3), "not": inner}),
        st.fixed_dictionaries({"items": inner, "prefixItems": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries(
            {
                "properties": st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
                "required": st.lists(st.sampled_from("abc"), max_size=2, unique=True),
                "additionalProperties": inner,
            }
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(VALUES, SCHEMAS)
def test_it_agrees_with_the_reference_validator(value: Any, schema: Any) -> None:
    root = {"allOf": [schema]}
    assert conforms(value, root) is jsonschema.Draft202012Validator(root).is_valid(value)


@pytest.mark.parametrize(
    "schema",
    [{"required": 5}, {"type": "object", "properties": {"a": {"minimum": "x"}}}, {"enum": 3}, {"type": {}}],
)
def test_what_is_no_schema_judges_nobody(schema: dict[str, Any]) -> None:
    assert conforms({"a": 1}, schema) is not False


@pytest.mark.parametrize(
    ("choice", "called", "valid"),
    [
        ("none", "f", False),
        ("none", None, None),
        ("required", None, False),
        ("required", "g", True),
        ({"type": "function", "function": {"name": "f"}}, "g", False),
        ({"type": "function", "function": {"name": "f"}}, "f", True),
        ({"type": "function", "function": {"name": "f"}}, None, False),
        ("auto", None, None),
    ],
)
def test_a_choice_of_tools_binds_the_answer(choice: Any, called: str | None, valid: bool | None) -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]
    messages = [{"role": "user", "content": "Hi"}]
    request = ChatRequest.model_validate({"messages": messages, "tools": tools, "tool_choice": choice})
    calls = [] if called is None else [{"type": "function", "function": {"name": called, "arguments": "{}"}}]
    assert judge(request, text="Hi", tool_calls=calls) is valid
    assert insists(request) is (choice != "auto")
    assert judge_for(request) is not None
