"""Tools, their schemas, results and choice in each provider's own form, without loss, and back again."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from backends.adapting.choices import narrowed
from backends.adapting.names import ANTHROPIC, GEMINI, OPENAI, NameRule, sent_names
from backends.adapting.restoring import Restoration, restored
from backends.adapting.schemas import object_root
from backends.anthropic import AnthropicBackend
from backends.anthropic.request import translate as to_anthropic
from backends.base import Upstream
from backends.clouds.bedrock.converse import translate as to_bedrock
from backends.google import GoogleBackend
from backends.google.request import translate as to_google
from backends.http import HttpClient
from backends.local.parameters import table_of
from backends.local.tool_schema import chosen_tools
from backends.ollama import OllamaBackend
from backends.ollama.backend import V1
from backends.ollama.request import translate as to_ollama
from backends.openai.backend import OpenAIBackend
from backends.openai.parameters import table_at
from backends.openai.responses.request import translate as to_responses
from backends.parameters import body_for, dropped_names
from backends.streams.assemble import ChatAssembler
from backends.wire.chat import ChatRequest
from catalog.errors import AnswerInvalid, InvalidRequest, UnsupportedParameter
from catalog.types import Json
from tests.backends.specs import of_anthropic, of_google, of_openai
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.google import FakeGoogle
from tests.fakes.ollama import FakeOllama
from tests.fakes.openai import FakeOpenAI

RULES = {"openai": OPENAI, "anthropic": ANTHROPIC, "gemini": GEMINI}
ROOTS = frozenset({"anyOf", "oneOf", "allOf"})
STRANGE = ["a.b/c d", "1x", "a_b", "a.b", "ä", "x" * 128]
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
HELLO = {"role": "user", "content": "Hi"}
PIXEL: Json = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def asked(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields})


def tool(name: str, parameters: Json = PIXEL, **fields: Any) -> Json:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **fields}}


def claude(model: str = "claude-opus-5", **fields: Any) -> Json:
    return of_anthropic(to_anthropic(asked(**fields), Upstream("a", "anthropic", "http://h", model)).body)


def gemini(model: str = "gemini-3.5-flash", **fields: Any) -> Json:
    return of_google(to_google(asked(**fields), Upstream("g", "google", "http://h", model)).body)


def gpt(base_url: str = "https://api.openai.com/v1", **fields: Any) -> Json:
    body = body_for(asked(**fields), Upstream("o", "openai", base_url, "gpt-5"), table_at(base_url))
    return of_openai(body)


# ---- names


@settings(max_examples=60, deadline=None)
@given(names=st.lists(st.text(min_size=1, max_size=128), min_size=1, max_size=8, unique=True))
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_name_of_a_tool_has_one_that_the_provider_allows_and_no_other_tool_has(
    rule: NameRule, names: list[str]
) -> None:
    sent = sent_names(asked(tools=[tool(name) for name in names]), rule)
    all_sent = [sent.get(name, name) for name in names]
    assert len(set(all_sent)) == len(names)
    assert all(rule.allowed.fullmatch(name) for name in all_sent)
    assert all(rule.allowed.fullmatch(name) is None for name in sent)
    assert sent == sent_names(asked(tools=[tool(name) for name in reversed(names)]), rule)


def test_a_name_made_up_is_never_that_of_another_tool() -> None:
    made = sent_names(asked(tools=[tool("a.b")]), OPENAI)["a.b"]
    assert sent_names(asked(tools=[tool("a.b"), tool(made)]), OPENAI)["a.b"] != made


def history(name: str) -> list[Json]:
    call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": '{"a": 1}'}}
    return [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "Fine."},
        {"role": "user", "content": "Again."},
    ]


async def whole(chunks: Any) -> Json:
    assembler = ChatAssembler()
    async for chunk in chunks:
        assembler.add(chunk)
    return assembler.result()


@pytest.mark.parametrize("name", STRANGE)
async def test_strange_names_reach_each_provider_and_come_back_as_the_caller_gave_them(name: str) -> None:
    async with HttpClient() as http, FakeAnthropic() as one, FakeGoogle() as two, FakeOpenAI() as three:
        for backend, there in (
            (AnthropicBackend(http), Upstream("a", "anthropic", one.origin, "claude-opus-5", api_key=one.key)),
            (GoogleBackend(http), Upstream("g", "google", two.base_url, "gemini-3.5-flash", api_key=two.key)),
            (OpenAIBackend(http), Upstream("o", "openai", three.base_url, "fake-chat", api_key=three.key)),
        ):
            answer = await whole(backend.chat(there, asked(tools=[tool(name)])))
            calls = answer["choices"][0]["message"]["tool_calls"]
            assert [call["function"]["name"] for call in calls] == [name]
            await whole(backend.chat(there, asked(messages=history("1x"), tools=[tool(name)])))
        bodies = [server.calls[-1].body for server in (one, two, three)]
    of_anthropic(bodies[0])
    of_google(bodies[1])
    past = bodies[0]["messages"][1]["content"][0]["name"], bodies[0]["tools"][0]["name"]
    assert all(ANTHROPIC.allowed.fullmatch(sent) for sent in past)
    declared = bodies[1]["tools"][0]["functionDeclarations"][0]["name"]
    result = bodies[1]["contents"][2]["parts"][0]["functionResponse"]["name"]
    assert all(GEMINI.allowed.fullmatch(sent) for sent in (declared, result))
    past = bodies[2]["messages"][1]["tool_calls"][0]["function"]["name"]
    assert all(OPENAI.allowed.fullmatch(sent) for sent in (past, bodies[2]["tools"][0]["function"]["name"]))


@pytest.mark.parametrize("text", ["[1", '{"a": ', "null", "[1]", '"x"', "NaN", "{'a': 1}"])
def test_past_arguments_that_are_no_object_are_wrapped_and_named_wherever_a_server_needs_one(text: str) -> None:
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": text}}
    empty = {"id": "u", "type": "function", "function": {"name": "f", "arguments": ""}}
    said = {"role": "assistant", "content": None, "tool_calls": [call, empty]}
    results = [{"role": "tool", "tool_call_id": name, "content": "No such argument"} for name in ("t", "u")]
    request = asked(messages=[HELLO, said, *results], tools=[tool("f")])
    lost, wrapped = "messages.tool_calls.function.arguments", {"INVALID_JSON": text}

    def at(protocol: str, model: str = "m") -> Upstream:
        return Upstream("a", protocol, "http://h", model)

    anthropic = to_anthropic(request, at("anthropic", "claude-opus-5"))
    assert [use["input"] for use in of_anthropic(anthropic.body)["messages"][1]["content"]] == [wrapped, {}]
    google = to_google(request, at("google", "gemini-3.5-flash"))
    given = [part["functionCall"]["args"] for part in of_google(google.body)["contents"][1]["parts"]]
    assert given == [wrapped, {}]
    bedrock = to_bedrock(request, at("bedrock"))
    assert [use["toolUse"]["input"] for use in bedrock.body["messages"][1]["content"]] == [wrapped, {}]
    ollama = to_ollama(request, at("ollama"))
    assert [made["function"]["arguments"] for made in ollama.body["messages"][1]["tool_calls"]] == [wrapped, {}]
    for dropped in (anthropic.dropped, google.dropped, bedrock.dropped, ollama.dropped):
        assert dropped == (lost,)
    for table in (table_at("http://vllm/v1"), table_of("llamacpp")):
        calls = body_for(request, at("openai"), table)["messages"][1]["tool_calls"]
        assert [json.loads(made["function"]["arguments"]) for made in calls] == [wrapped, {}]
        assert lost in dropped_names(request, at("openai"), table)


def test_openai_gets_past_arguments_as_the_model_wrote_them() -> None:
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": "[1"}}
    request = asked(messages=[HELLO, {"role": "assistant", "tool_calls": [call]}])
    table, upstream = table_at("https://api.openai.com/v1"), Upstream("a", "openai", "http://h", "m")
    assert body_for(request, upstream, table)["messages"][1]["tool_calls"] == [call]
    assert not dropped_names(request, upstream, table)


def test_a_tool_that_is_named_by_the_choice_has_the_name_that_is_sent() -> None:
    choice = {"type": "function", "function": {"name": "a.b"}}
    body = gpt(tools=[tool("a.b")], tool_choice=choice)
    assert body["tool_choice"]["function"]["name"] == body["tools"][0]["function"]["name"] != "a.b"
    custom = {"type": "custom", "custom": {"name": "a b"}}
    body = gpt(tools=[custom], tool_choice=custom)
    assert body["tool_choice"]["custom"]["name"] == body["tools"][0]["custom"]["name"] != "a b"


@pytest.mark.parametrize("name", STRANGE)
async def test_strange_names_reach_ollama_and_come_back(name: str) -> None:
    async with HttpClient() as http, FakeOllama() as fake:
        there = Upstream("l", "ollama", fake.origin, "fake-chat")
        choice = {"type": "function", "function": {"name": name}}
        answer = await whole(OllamaBackend(http).chat(there, asked(tools=[tool(name)], tool_choice=choice)))
    calls = answer["choices"][0]["message"]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == [name]


def test_an_argument_that_anthropic_has_no_name_for_is_refused_by_its_name() -> None:
    with pytest.raises(UnsupportedParameter, match="'a b'"):
        claude(tools=[tool("f", {"type": "object", "properties": {"a b": {}}})])


# ---- schemas

_leaves = st.sampled_from(
    [{"type": "integer"}, {"type": "string"}, {"enum": ["x", 1]}, {"type": "integer", "minimum": 2}]
)
_objects = st.fixed_dictionaries(
    {"properties": st.dictionaries(st.sampled_from("abc"), _leaves, max_size=3)},
    optional={
        "required": st.lists(st.sampled_from("abc"), max_size=2, unique=True),
        "type": st.just("object"),
        "additionalProperties": st.booleans(),
    },
)
_branches = st.lists(_objects | st.just({"$ref": "#/$defs/d"}), min_size=1, max_size=3)
_schemas = st.builds(
    lambda root, unions, definition: {**root, **unions, "$defs": {"d": definition}},
    _objects,
    st.fixed_dictionaries({}, optional={"anyOf": _branches, "oneOf": _branches, "allOf": _branches}),
    _objects,
)


def _referring(schema: Json) -> Json:
    return {"$ref": "#/$defs/r", "$defs": {"d": schema["$defs"]["d"], "r": {**schema, "$defs": {}}}}


_values = st.dictionaries(st.sampled_from("abcd"), st.sampled_from([0, 2, "x", "y", None]), max_size=4)


@settings(max_examples=60, deadline=None)
@given(schema=_schemas | _schemas.map(_referring), value=_values)
def test_a_root_without_unions_accepts_nothing_that_the_callers_schema_refuses(schema: Json, value: Json) -> None:
    root = object_root(schema, ROOTS, "here")
    Draft202012Validator.check_schema(root)
    assert root["type"] == "object"
    assert not {*ROOTS, "$ref"} & root.keys()
    if Draft202012Validator(root).is_valid(value):
        assert Draft202012Validator(schema).is_valid(value)


@settings(max_examples=60, deadline=None)
@given(one=_objects, other=_objects, value=_values)
def test_a_rewritten_union_accepts_what_each_branch_describes(one: Json, other: Json, value: Json) -> None:
    root = object_root({"type": "object", "anyOf": [one, other]}, ROOTS, "here")
    described = {**one["properties"]}
    if set(value) <= set(described) and Draft202012Validator(one).is_valid(value):
        assert Draft202012Validator(root).is_valid(value)


def test_a_schema_that_nothing_refuses_is_sent_as_it_is() -> None:
    nested = {"type": "object", "properties": {"a": {"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/b"}]}}}
    assert object_root(nested, ROOTS, "here") is nested
    recursive = {**nested, "$defs": {"b": {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}}}}
    tools = [tool("f", recursive)]
    declared = gemini(tools=tools)["tools"][0]["functionDeclarations"][0]
    for body in (
        claude(tools=tools)["tools"][0]["input_schema"],
        gpt(tools=tools)["tools"][0]["function"]["parameters"],
        declared["parametersJsonSchema"],
    ):
        assert body == recursive


def test_branches_that_only_add_properties_become_one_object() -> None:
    merged = object_root({"allOf": [PIXEL, {"properties": {"b": {"type": "string"}}}]}, ROOTS, "here")
    assert merged == {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
        "required": ["a"],
    }


UNION: Json = {"anyOf": [PIXEL, {"type": "object", "properties": {"b": {"type": "string"}}, "required": ["b"]}]}


def test_a_union_at_the_root_goes_where_each_provider_takes_it() -> None:
    schema = claude(tools=[tool("f", UNION)])["tools"][0]["input_schema"]
    assert schema == gpt(tools=[tool("f", UNION)])["tools"][0]["function"]["parameters"]
    assert schema["then"] == UNION
    assert schema["properties"] == {"a": {"type": "integer"}, "b": {"type": "string"}}
    compatible = gpt("https://example.com/v1", tools=[tool("f", UNION)])
    assert compatible["tools"][0]["function"]["parameters"] == UNION
    declared = gemini(tools=[tool("f", UNION)])["tools"][0]["functionDeclarations"][0]
    assert declared["parametersJsonSchema"] == {**UNION, "type": "object"}
    body = body_for(asked(tools=[tool("f", UNION)]), Upstream("l", "ollama", "http://h", "m"), V1)
    assert body["tools"][0]["function"]["parameters"]["properties"] == schema["properties"]


def test_a_strict_tool_with_a_union_at_its_root_is_told_to_be_less_than_strict() -> None:
    there = Upstream("a", "anthropic", "http://h", "claude-opus-5")
    translated = to_anthropic(asked(tools=[tool("f", UNION, strict=True)]), there)
    assert "strict" not in of_anthropic(translated.body)["tools"][0]
    assert translated.dropped == ("tools.function.strict",)
    bounded = {"type": "object", "properties": {"a": {"type": "string", "pattern": "a+"}}}
    there = Upstream("g", "google", "http://h", "gemini-3.5-flash")
    assert to_google(asked(tools=[tool("f", bounded, strict=True)]), there).dropped == (
        "tools.function.parameters.pattern",
    )
    assert to_google(asked(tools=[tool("f", bounded)]), there).dropped == ()


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"type": "string"}, "type"),
        ({"$ref": "https://example.com/schema"}, "$ref"),
        ({"$ref": "#"}, "$ref"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "$ref"),
    ],
)
def test_parameters_that_describe_no_object_are_refused_with_the_keyword(schema: Json, word: str) -> None:
    for send in (claude, gemini, gpt):
        if send is gemini and "type" in schema:
            continue
        with pytest.raises(UnsupportedParameter, match=re.escape(word)) as refused:
            send(tools=[tool("f"), tool("g", schema)])
        assert refused.value.param == "tools.1.function.parameters"


# ---- the choice


def allowing(*names: str, mode: str = "auto") -> Json:
    named = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": named}}


def test_allowed_tools_are_the_providers_own_choice_or_the_only_tools_sent() -> None:
    tools = [tool("f"), tool("g"), tool("h")]
    choice = allowing("f", "h")
    assert gpt(tools=tools, tool_choice=choice)["tool_choice"] == choice
    body = claude(tools=tools, tool_choice=choice)
    assert [one["name"] for one in body["tools"]] == ["f", "h"]
    assert body["tool_choice"] == {"type": "auto"}
    must = claude(tools=tools, tool_choice=allowing("g", mode="required"))
    assert ([one["name"] for one in must["tools"]], must["tool_choice"]) == (["g"], {"type": "any"})
    body = gemini(tools=tools, tool_choice=choice)
    assert len(body["tools"][0]["functionDeclarations"]) == 3
    assert body["toolConfig"]["functionCallingConfig"] == {
        "mode": "VALIDATED",
        "allowedFunctionNames": ["f", "h"],
    }
    must = gemini(tools=tools, tool_choice=allowing("g", mode="required"))
    assert must["toolConfig"]["functionCallingConfig"] == {"mode": "ANY", "allowedFunctionNames": ["g"]}
    compatible = gpt("https://example.com/v1", tools=tools, tool_choice=choice)
    assert [one["function"]["name"] for one in compatible["tools"]] == ["f", "h"]
    assert compatible["tool_choice"] == "auto"


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "allowed_tools"},
        {"type": "allowed_tools", "allowed_tools": {"mode": "never", "tools": []}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": "f"}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function"}]}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": []}},
        allowing("missing"),
    ],
)
def test_a_malformed_choice_of_tools_is_the_callers_mistake(choice: Json) -> None:
    for send in (claude, gemini):
        with pytest.raises(InvalidRequest) as refused:
            send(tools=[tool("f")], tool_choice=choice)
        assert refused.value.param == "tool_choice.allowed_tools"


def test_a_local_model_may_call_the_allowed_tools_alone() -> None:
    tools = [tool("f"), tool("g"), tool("h")]
    request = narrowed(asked(tools=tools, tool_choice=allowing("h", "f", mode="required")))
    assert [one.name for one in chosen_tools(request)] == ["f", "h"]
    assert request.tool_choice == "required"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
def test_a_forced_call_is_refused_for_models_that_cannot_be_forced(choice: Any) -> None:
    for model in ("claude-opus-5-5", "claude-sonnet-5-5", "claude-fable-5-1"):
        with pytest.raises(UnsupportedParameter, match="cannot be forced") as refused:
            claude(model, tools=[tool("f")], tool_choice=choice)
        assert refused.value.param == "tool_choice"
    for model in ("claude-opus-5", "claude-haiku-5-5", "claude-sonnet-5"):
        claude(model, tools=[tool("f")], tool_choice=choice)


# ---- JSON beside tools


@pytest.mark.parametrize("model", ["claude-opus-5", "claude-opus-5-5", "claude-haiku-4-5"])
def test_a_json_object_beside_tools_is_told_to_claude_and_checked(model: str) -> None:
    there = Upstream("a", "anthropic", "http://h", model)
    system = {"role": "system", "content": "S"}
    request = asked(
        messages=[system, {"role": "user", "content": "Hi"}],
        tools=[tool("f")],
        response_format={"type": "json_object"},
    )
    translated = to_anthropic(request, there)
    body = of_anthropic(translated.body)
    assert [block["text"][:1] for block in body["system"]] == ["S", "Y"]
    assert "tool_choice" not in body
    assert translated.restoration is not None
    assert translated.restoration.json_object
    assert translated.dropped == ()


def test_a_json_object_of_gemini_is_native_or_told() -> None:
    wanted: Json = {"response_format": {"type": "json_object"}, "tools": [tool("f")]}
    assert gemini("gemini-3.5-flash", **wanted)["generationConfig"]["responseMimeType"] == "application/json"
    body = gemini("gemini-2.5-flash", **wanted)
    assert "generationConfig" not in body
    assert "JSON" in body["systemInstruction"]["parts"][0]["text"]


def test_claudes_that_cannot_be_forced_are_told_to_answer_in_json_or_refuse_an_open_schema() -> None:
    body = claude("claude-opus-5-5", response_format={"type": "json_object"})
    assert "tools" not in body
    assert "JSON" in body["system"][0]["text"]
    opened = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    with pytest.raises(UnsupportedParameter, match="closed schema"):
        claude("claude-opus-5-5", response_format=opened)


async def chunks_of(pieces: list[str], finish: str, *, call: bool = False) -> AsyncGenerator[Json]:
    for piece in pieces:
        yield {"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}
    if call:
        calls = [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
        yield {"choices": [{"index": 0, "delta": {"tool_calls": calls}, "finish_reason": None}]}
    yield {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}


@given(st.lists(st.text(max_size=4)), st.integers(1, 9), st.booleans())
@settings(max_examples=100, deadline=None)
async def test_json_comes_as_it_is_without_its_fence(words: list[str], size: int, fenced: bool) -> None:
    said = json.dumps({"a": words})
    text = f"```json\n{said}\n```" if fenced else f" {said}"
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    got = [chunk async for chunk in restored(chunks_of(pieces, "stop"), Restoration(json_object=True))]
    written = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in got)
    assert json.loads(written) == {"a": words}
    assert fenced or written == text


@pytest.mark.parametrize("text", ["Sure!", "[1]", '{"a": 1} done', "", '```json\n{"a"\n```'])
async def test_a_finished_answer_that_is_no_json_object_is_an_error(text: str) -> None:
    with pytest.raises(AnswerInvalid):
        async for _ in restored(chunks_of([text], "stop"), Restoration(json_object=True)):
            pass
    for finish, call in (("length", False), ("tool_calls", True), ("stop", True)):
        answer = restored(chunks_of([text], finish, call=call), Restoration(json_object=True))
        assert (await whole(answer))["choices"][0]["message"]["content"] == (text or (None if call else ""))


# ---- results of tools


def with_result(*results: Any) -> list[Json]:
    calls = [
        {"id": f"c{at}", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        for at in range(len(results))
    ]
    said = [{"role": "tool", "tool_call_id": f"c{at}", "content": one} for at, one in enumerate(results)]
    return [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None, "tool_calls": calls}, *said]


def test_pictures_in_results_follow_all_results_in_a_message_of_the_user() -> None:
    text = {"type": "text", "text": "Seen."}
    messages = with_result([text, PICTURE], "Fine.", [PICTURE])
    after = {"role": "user", "content": "And now?"}
    for there in ("https://api.openai.com/v1", "https://example.com/v1"):
        sent = gpt(there, messages=[*messages, after], tools=[tool("f")])["messages"]
        assert [message["role"] for message in sent] == [
            "user",
            "assistant",
            "tool",
            "tool",
            "tool",
            "user",
            "user",
        ]
        assert sent[2]["content"] == [text]
        assert sent[3]["content"] == "Fine."
        assert sent[4]["content"][0]["type"] == "text"
        moved = sent[5]["content"]
        assert [part["type"] for part in moved] == ["text", "image_url"] * 2
        assert [part["text"] for part in moved[::2]] == [
            "Result of the tool call c0:",
            "Result of the tool call c2:",
        ]
        assert sent[6] == after
    over = Upstream("o", "openai", "https://api.openai.com/v1", "gpt-5", wire="responses")
    request = asked(messages=messages, tools=[tool("f", UNION)])
    body = to_responses(request, over, table_at(over.base_url)).body
    assert [part["type"] for part in body["input"][-1]["output"]] == ["input_image"]
    assert "anyOf" not in body["tools"][0]["parameters"]
    assert gpt(messages=with_result([text]), tools=[tool("f")])["messages"][2]["content"] == [text]
