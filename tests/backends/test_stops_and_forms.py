"""A stop sequence beside a form or a tool, and forms that no text or no dialect of expressions has."""

from __future__ import annotations

from typing import Any

import pytest

from backends.base import Upstream
from backends.constraints.checker import Checker
from backends.local.backend import LocalWorkerBackend
from backends.notices import collect
from backends.wire.chat import ChatRequest
from backends.wire.completions import CompletionRequest
from catalog.errors import AnswerInvalid, InvalidRequest
from catalog.types import Json
from tests.backends.answers import assemble_chat, assemble_completion
from tests.fakes.llama_server import FakeLlamaServer

OBJECT: Json = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": OBJECT}}]
CALLS = '{"tool_calls": [{"name": "find", "arguments": {"a": "one two"}}]}'


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields})


def form(schema: Json) -> Json:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


@pytest.mark.parametrize(
    "asked",
    [
        {"response_format": form(OBJECT)},
        {"response_format": {"type": "json_object"}},
        {"guided_regex": r'\{"a": "\w+ \w+"\}'},
        {"structured_outputs": {"choice": ['{"a": "one two"}', "b"]}},
    ],
)
async def test_an_answer_that_a_stop_sequence_cuts_needs_only_begin_its_form(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream, asked: Json
) -> None:
    fake.scripted = '{"a": "one two"}'
    (choice,) = (await assemble_chat(backend.chat(upstream, chat(**asked, stop=[" two"]))))["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ('{"a": "one', "stop")
    text = CompletionRequest.model_validate({"model": "m", "prompt": "a", **asked, "stop": [" two"]})
    fake.reply = fake.scripted
    (said,) = (await assemble_completion(backend.complete(upstream, text)))["choices"]
    assert fake.scripted.startswith(said["text"])
    fake.scripted = "It was two"
    with pytest.raises(AnswerInvalid):
        await assemble_chat(backend.chat(upstream, chat(**asked, stop=[" two"])))


async def test_a_complete_answer_of_a_wrong_form_is_refused_although_a_stop_sequence_was_given(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    fake.scripted = '{"a": 5}'
    with pytest.raises(AnswerInvalid):
        await assemble_chat(backend.chat(upstream, chat(response_format=form(OBJECT), stop=["zz"])))


@pytest.mark.parametrize("choice", ["required", "auto", {"type": "function", "function": {"name": "find"}}])
async def test_a_stop_sequence_never_cuts_a_tool_call(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream, choice: Any
) -> None:
    fake.scripted = '{"a": "one two"}' if isinstance(choice, dict) else CALLS
    answer = await assemble_chat(backend.chat(upstream, chat(tools=TOOLS, tool_choice=choice, stop=["{", " two"])))
    (said,) = answer["choices"]
    assert said["finish_reason"] == "tool_calls"
    assert said["message"]["tool_calls"][0]["function"]["arguments"] == '{"a": "one two"}'
    assert "stop" not in next(call.body for call in fake.calls if call.path.endswith("completions"))


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "find"}}])
async def test_logprobs_of_a_forced_tool_call_are_named_as_dropped(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream, choice: Any
) -> None:
    fake.scripted = '{"a": "one two"}' if isinstance(choice, dict) else CALLS
    reported = collect().dropped
    await assemble_chat(backend.chat(upstream, chat(tools=TOOLS, tool_choice=choice)))
    assert reported == []
    await assemble_chat(backend.chat(upstream, chat(tools=TOOLS, tool_choice=choice, logprobs=True)))
    assert reported == ["logprobs"]


async def test_a_stop_sequence_ends_the_text_beside_tools_and_its_tokens_are_counted(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    fake.scripted = "one two three four"
    answer = await assemble_chat(backend.chat(upstream, chat(tools=TOOLS, stop=[" three"])))
    assert answer["choices"][0]["message"]["content"] == "one two"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["prompt_tokens"] > 0
    fake.scripted = '{"content": {"a": "one two"}}'
    both = chat(tools=TOOLS, response_format=form(OBJECT), stop=[" two"])
    answer = await assemble_chat(backend.chat(upstream, both))
    assert answer["choices"][0]["message"]["content"] == '{"a": "one'


async def test_a_template_with_tools_that_calls_none_breaks_required(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    fake.takes_tools, fake.scripted = True, "No."
    with pytest.raises(AnswerInvalid, match="no tool call"):
        await assemble_chat(backend.chat(upstream, chat(tools=TOOLS, tool_choice="required")))


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"guided_regex": r"[^\s\S]"}, "guided_regex"),
        ({"guided_regex": r"ab[^\s\S]c"}, "guided_regex"),
        ({"grammar": "root ::= root"}, "grammar"),
        ({"grammar": 'root ::= "a" root'}, "grammar"),
        ({"grammar": 'root ::= "a" other?\nother ::= other'}, "grammar"),
        ({"grammar": "%llguidance {}\nstart: start"}, "grammar"),
        ({"grammar": '%llguidance {}\nstart: "a" start'}, "grammar"),
        (
            {"response_format": form({"type": "object", "properties": {"n": {"$ref": "#"}}, "required": ["n"]})},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": form({"type": "array", "items": {"$ref": "#"}, "minItems": 1})},
            "response_format.json_schema.schema",
        ),
    ],
)
async def test_a_form_that_no_text_has_is_refused_before_the_call(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream, asked: Json, param: str
) -> None:
    with pytest.raises(InvalidRequest, match=r"no text|never ends|No value") as refused:
        await assemble_chat(backend.chat(upstream, chat(**asked)))
    assert refused.value.param == param
    assert not fake.calls


async def test_a_dead_end_that_only_the_answer_reaches_is_the_callers_mistake(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    fake.scripted = "a"
    grammar = '%llguidance {}\nstart: "a" other | "b"\nother: other'
    with pytest.raises(InvalidRequest, match="begins with 'a'") as refused:
        await assemble_chat(backend.chat(upstream, chat(grammar=grammar)))
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"n": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["n"]},
        {"type": "array", "items": {"$ref": "#"}},
    ],
)
async def test_a_recursion_that_can_end_is_not_refused(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream, schema: Json
) -> None:
    fake.scripted = '{"n": null}' if schema["type"] == "object" else "[[]]"
    answer = await assemble_chat(backend.chat(upstream, chat(response_format=form(schema))))
    assert answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("schema", "fits", "not_so"),
    [
        ({"pattern": r"^\p{Lu}+$"}, '"ÄB"', '"aB"'),
        ({"pattern": "^[[:alpha:]]$"}, '"x"', '"7"'),
        ({"multipleOf": 0.1}, "0.3", "0.35"),
        (
            {"patternProperties": {r"^\p{Lu}$": {"type": "integer"}}, "additionalProperties": False},
            '{"A": 1}',
            '{"a": 1}',
        ),
    ],
)
async def test_an_answer_is_checked_by_the_reading_of_a_keyword_that_was_enforced(
    checker: Checker, schema: Json, fits: str, not_so: str
) -> None:
    await checker.check_json(fits, schema)
    with pytest.raises(AnswerInvalid, match="is not kept"):
        await checker.check_json(not_so, schema)
