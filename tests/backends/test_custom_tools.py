"""Custom tools, whose input is any text, for providers that have functions alone."""

from __future__ import annotations

import json

import pytest

from backends.adapting.restoring import Restoration, Restorer
from backends.anthropic import AnthropicBackend
from backends.anthropic.request import translate as to_anthropic
from backends.base import Upstream
from backends.google import GoogleBackend
from backends.http import HttpClient
from backends.ollama import OllamaBackend
from backends.openai.parameters import table_at
from backends.parameters import dropped_names
from backends.wire.chat import TranslatedChat
from backends.wire.responses import ResponsesRequest
from catalog.errors import AnswerInvalid, InvalidRequest, UnsupportedParameter
from catalog.types import Json
from server.wires import responses
from tests.backends.specs import of_anthropic, of_google
from tests.backends.test_adapting import HELLO, asked, claude, gemini, gpt, tool, whole
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.google import FakeGoogle
from tests.fakes.ollama import FakeOllama

PATCH: Json = {"type": "custom", "custom": {"name": "apply patch", "description": "Applies it."}}


async def test_custom_tools_are_functions_where_there_are_no_others_and_their_calls_come_back_custom() -> None:
    said = {"id": "c1", "type": "custom", "custom": {"name": "apply patch", "input": 'a "b"\n'}}
    past = [HELLO, {"role": "assistant", "content": None, "tool_calls": [said]}]
    past += [{"role": "tool", "tool_call_id": "c1", "content": "Done."}, HELLO]
    async with HttpClient() as http, FakeAnthropic() as one, FakeGoogle() as two, FakeOllama() as three:
        for backend, there, fake in (
            (
                AnthropicBackend(http),
                Upstream("a", "anthropic", one.origin, "claude-opus-5", api_key=one.key),
                one,
            ),
            (GoogleBackend(http), Upstream("g", "google", two.base_url, "gemini-3.5-flash", api_key=two.key), two),
            (OllamaBackend(http), Upstream("l", "ollama", three.origin, "fake-chat"), three),
        ):
            choice = {"type": "custom", "custom": {"name": "apply patch"}}
            answer = await whole(backend.chat(there, asked(tools=[PATCH], tool_choice=choice)))
            (call,) = answer["choices"][0]["message"]["tool_calls"]
            assert (call["type"], call["custom"]) == ("custom", {"name": "apply patch", "input": "Paris"})
            assert "function" not in call
            await whole(backend.chat(there, asked(messages=past, tools=[PATCH])))
            body = fake.calls[-1].body
            assert json.dumps('a "b"\n')[1:-1] in json.dumps(body)
            if fake is one:
                of_anthropic(body)
            elif fake is two:
                of_google(body)
    assert gpt(tools=[PATCH], messages=past)["messages"][1]["tool_calls"][0]["custom"]["input"] == 'a "b"\n'


def test_a_custom_tool_with_a_grammar_is_refused_where_it_cannot_be_held_to_it() -> None:
    form = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: A"}}
    strict = {"type": "custom", "custom": {**PATCH["custom"], "format": form}}
    for send in (claude, gemini):
        with pytest.raises(UnsupportedParameter) as refused:
            send(tools=[tool("f"), strict])
        assert refused.value.param == "tools.1.custom.format"
        with pytest.raises(InvalidRequest, match=r"custom\.name"):
            send(tools=[{"type": "custom"}])
    (sent,) = gpt(tools=[strict])["tools"]
    assert sent["custom"]["format"] == form


def test_a_server_of_unknown_make_is_sent_functions_in_the_place_of_custom_tools() -> None:
    said = {"id": "c1", "type": "custom", "custom": {"name": "apply patch", "input": "x"}}
    past = [HELLO, {"role": "assistant", "content": None, "tool_calls": [said]}]
    past += [{"role": "tool", "tool_call_id": "c1", "content": "Done."}]
    body = gpt("https://models.example/v1", tools=[PATCH], messages=past)
    (sent,), (call,) = body["tools"], body["messages"][1]["tool_calls"]
    for holder in (sent, call):
        assert (holder["type"], "custom" in holder) == ("function", False)
        assert holder["function"]["name"] == sent["function"]["name"]
    assert json.loads(call["function"]["arguments"]) == {"input": "x"}


def test_the_grammar_of_a_translated_tool_is_told_to_the_model_and_named() -> None:
    form = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[a-z]+"}}
    body = asked(tools=[{"type": "custom", "custom": {**PATCH["custom"], "format": form}}]).to_wire()
    chat = TranslatedChat.of(body, (), frozenset())
    made = to_anthropic(chat, Upstream("a", "anthropic", "http://h", "claude-opus-5"))
    assert "tools.format" in made.dropped
    assert "[a-z]+" in made.body["tools"][0]["description"]
    for url, lost in (("https://models.example/v1", True), ("https://api.openai.com/v1", False)):
        there = Upstream("o", "openai", url, "gpt-5")
        assert ("tools.format" in dropped_names(chat, there, table_at(url))) == lost


@pytest.mark.parametrize("form", [{"type": "nope"}, {}, 5])
def test_an_unknown_form_of_a_custom_tools_input_is_refused_at_every_door(form: object) -> None:
    tools: list[Json] = [{"type": "custom", "name": "f", "format": form}]
    told = responses.to_chat(ResponsesRequest.model_validate({"model": "m", "input": "Hi", "tools": tools}))
    there = Upstream("a", "anthropic", "http://h", "claude-opus-5")
    for chat in (told, asked(tools=[{"type": "custom", "custom": {"name": "f", "format": form}}])):
        with pytest.raises(InvalidRequest, match="'text' or 'grammar'") as refused:
            to_anthropic(chat, there)
        assert refused.value.param == "tools.0.custom.format"


@pytest.mark.parametrize("reason", ["stop", "tool_calls"])
def test_a_finished_call_with_cut_arguments_is_no_answer_and_a_cut_answer_keeps_them(reason: str) -> None:
    for ending in (reason, "length"):
        restorer = Restorer(Restoration(custom=frozenset({"f"})))
        call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"input":"unterm'}}
        restorer.restore({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]})
        last: Json = {"choices": [{"index": 0, "delta": {}, "finish_reason": ending}]}
        if ending == "length":
            (rest,) = restorer.restore(last)["choices"][0]["delta"]["tool_calls"]
            assert rest["custom"]["input"] == '{"input":"unterm'
        else:
            with pytest.raises(AnswerInvalid):
                restorer.restore(last)
