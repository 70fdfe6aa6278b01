"""An answer is judged from its chunks, and only when the request says what a valid answer is."""

from __future__ import annotations

from typing import Any

import pytest

from backends.wire.chat import ChatRequest
from routing.calling.watching.judgement import ChatJudge, insists, judge_for

PERSON = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
FORM = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": PERSON}}


def request(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields})


def chunk(finish: str | None = None, index: int = 0, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


def verdict(asked: ChatRequest, *chunks: dict[str, Any], most: int = 10_000) -> bool | None:
    judge = ChatJudge(asked, most=most)
    for each in chunks:
        judge.see(each)
    return judge.verdict()


@pytest.mark.parametrize(
    ("fields", "judged"),
    [
        ({}, False),
        ({"response_format": {"type": "text"}}, False),
        ({"response_format": {"type": "json_object"}}, True),
        ({"response_format": FORM}, True),
        ({"guided_choice": ["a"]}, True),
        ({"structured_outputs": {"json": PERSON}}, True),
        ({"structured_outputs": {"regex": "a"}}, False),
        ({"tools": [TOOL]}, True),
        ({"tools": [TOOL], "tool_choice": "none"}, True),
    ],
)
def test_only_requests_that_say_what_is_valid_have_a_judge(fields: dict[str, Any], judged: bool) -> None:
    assert (judge_for(request(**fields)) is not None) is judged


@pytest.mark.parametrize(
    ("text", "valid"), [('{"age": 3}', True), ('{"age": "3"}', False), ("I am three.", False), ("", False)]
)
def test_a_text_in_pieces_is_held_against_its_schema(text: str, valid: bool) -> None:
    pieces = [chunk(content=letter) for letter in text]
    assert verdict(request(response_format=FORM), *pieces, chunk("stop")) is valid


@pytest.mark.parametrize(
    ("fields", "good", "bad"),
    [
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes", "maybe"),
        ({"guided_choice": ["yes", "no"]}, "no\n", "Yes"),
        ({"structured_outputs": {"json": PERSON}}, '{"age": 3}', "{}"),
        ({"guided_json": '{"type": "array"}'}, "[]", "{}"),
        ({"structured_outputs": {"json_object": True}}, "{}", "hello"),
    ],
)
def test_a_form_in_vllms_words_is_held_and_insisted_on(fields: dict[str, Any], good: str, bad: str) -> None:
    asked = request(**fields)
    assert insists(asked)
    for text, valid in ((good, True), (bad, False), ("", False)):
        assert verdict(asked, chunk(content=text), chunk("stop")) is valid
    assert verdict(request(**fields, max_tokens=1), chunk(content=good[:1]), chunk("length")) is None


def test_a_choice_that_a_stop_sequence_may_have_cut_proves_nothing() -> None:
    asked = request(guided_choice=["yes sir"], stop=["sir"])
    assert verdict(asked, chunk(content="yes "), chunk("stop")) is None
    assert verdict(asked, chunk(content="no"), chunk("stop")) is False


@pytest.mark.parametrize(("arguments", "valid"), [('{"age": 3}', True), ('{"age": ', False), ("{}", False)])
def test_the_arguments_of_a_tool_call_are_held_against_its_parameters(arguments: str, valid: bool) -> None:
    begin = {"index": 0, "id": "c", "type": "function", "function": {"name": "add", "arguments": ""}}
    pieces = [chunk(tool_calls=[{"index": 0, "function": {"arguments": letter}}]) for letter in arguments]
    assert verdict(request(tools=[TOOL]), chunk(tool_calls=[begin]), *pieces, chunk("tool_calls")) is valid


def test_one_invalid_choice_of_several_makes_the_answer_invalid() -> None:
    good, bad = '{"age": 3}', "no"
    asked = request(response_format=FORM, n=2)
    assert verdict(asked, chunk("stop", 0, content=good), chunk("stop", 1, content=bad)) is False
    assert verdict(asked, chunk("stop", 0, content=good), chunk("stop", 1, content=good)) is True


def test_a_refusal_a_broken_stream_and_the_callers_own_bound_prove_nothing() -> None:
    asked = request(response_format=FORM)
    assert verdict(asked, chunk("stop", refusal="No.")) is None
    assert verdict(asked, chunk("content_filter", content="x")) is None
    assert verdict(asked, chunk(content='{"age"')) is None
    assert verdict(request(response_format=FORM, max_tokens=2), chunk("length", content='{"age"')) is None
    assert verdict(asked, chunk("length", content='{"age"')) is False


@pytest.mark.parametrize(
    ("fields", "end", "content", "expected"),
    [
        ({"stop": ["}"]}, {}, '{"age": 5', None),  # the server does not say what ended it
        ({"stop": ["\n"]}, {}, "", None),
        ({"stop": ["\n"]}, {}, "Sure! Here", False),  # no stop sequence makes this the beginning of JSON
        ({"stop": ["\n"]}, {}, '{"age": 5}', True),
        ({}, {"stop_reason": "}"}, "Sure", None),
        ({}, {}, '{"age": 5', False),
    ],
)
def test_a_form_that_a_stop_sequence_cut_proves_nothing(
    fields: dict[str, Any], end: dict[str, Any], content: str, expected: bool | None
) -> None:
    last = chunk("stop", content=content)
    last["choices"][0] |= end
    assert verdict(request(response_format=FORM, **fields), last) is expected


def test_an_answer_that_is_too_long_to_keep_is_not_judged() -> None:
    pieces = [chunk(content="x" * 10) for _ in range(20)]
    assert verdict(request(response_format=FORM), *pieces, chunk("stop"), most=100) is None
