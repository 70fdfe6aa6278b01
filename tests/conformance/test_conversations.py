"""Random conversations reach each provider with all that it can hold, in order; each loss is named.

Each thing that is said has a mark of its own, which is looked for in the body. The bodies are of the SDKs' types.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.adapting.names import ANTHROPIC, GEMINI, OPENAI
from backends.anthropic.request import translate as to_anthropic
from backends.base import Upstream
from backends.google.request import translate as to_google
from backends.local.parameters import table_of
from backends.ollama.request import translate as to_ollama
from backends.openai.parameters import table_at
from backends.openai.responses.request import translate as to_responses
from backends.parameters import ParameterTable, body_for, dropped_names
from backends.wire.chat import ChatRequest
from catalog.errors import CapabilityMismatch, UnsupportedParameter
from catalog.types import Json
from tests.backends.specs import of_anthropic, of_google, of_openai
from tests.fakes import anthropic, google

NAMES = ["weather", "a.b/c d", "1x", "a_b", "ä" * 100]
SCHEMAS: list[Json] = [
    {"type": "object", "properties": {"said": {"type": "string"}}},
    {"anyOf": [{"properties": {"said": {"type": "string"}}}, {"properties": {"b": {"type": "integer"}}}]},
    {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "properties": {"said": {"type": "string"}}}}},
]


def base64_of(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@dataclass
class Conversation:
    """A request's messages, the mark of each thing in them by its kind, and the tools."""

    messages: list[Json] = field(default_factory=list)
    marks: list[tuple[str, str]] = field(default_factory=list)
    tools: list[Json] = field(default_factory=list)

    def mark(self, kind: str) -> str:
        made = f"m{len(self.marks):03}{kind}"
        self.marks.append((kind, made))
        return made

    @property
    def request(self) -> ChatRequest:
        return ChatRequest.model_validate({"model": "m", "messages": self.messages, "tools": self.tools})


def part(talk: Conversation, kind: str) -> Json:
    mark = talk.mark(kind)
    match kind:
        case "text":
            return {"type": "text", "text": mark}
        case "image":
            return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64_of(mark)}"}}
        case "audio":
            return {"type": "input_audio", "input_audio": {"data": base64_of(mark), "format": "wav"}}
        case _:
            held = "application/pdf" if kind == "pdf" else "text/csv"
            data = f"data:{held};base64,{base64_of(mark)}"
            return {"type": "file", "file": {"file_data": data, "filename": "it"}}


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """System messages anywhere, users with media, calls with thinking, and their results in any order."""
    talk = Conversation()
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    schemas = st.sampled_from(SCHEMAS)
    talk.tools = [{"type": "function", "function": {"name": one, "parameters": draw(schemas)}} for one in names]
    kinds = st.lists(
        st.sampled_from(["text", "text", "image", "textfile", "pdf", "audio"]), min_size=1, max_size=3
    )
    for turn in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            role = draw(st.sampled_from(["system", "developer"]))
            talk.messages.append({"role": role, "content": talk.mark("system")})
        said = [part(talk, kind) for kind in draw(kinds)]
        if draw(st.booleans()):
            said[-1]["cache_control"] = {"type": "ephemeral"}
            talk.marks.append(("cache", "ephemeral"))
        talk.messages.append({"role": "user", "content": said})
        if draw(st.integers(0, 3)) == 0:
            talk.messages.append({"role": "system", "content": talk.mark("system")})
        answers = draw(st.sampled_from(["", "text", "call", "both"]))
        if not answers:
            continue
        message: Json = {"role": "assistant", "content": None if answers == "call" else talk.mark("text")}
        thought = draw(st.sampled_from(["", "signed", "reasoning"]))
        if thought == "signed":
            block = {"type": "thinking", "thinking": talk.mark("signed"), "signature": anthropic.SIGNATURE}
            message["thinking_blocks"] = [block]
        elif thought == "reasoning":
            message["reasoning_content"] = talk.mark("reasoning")
        talk.messages.append(message)
        if answers == "text":
            continue
        calls = []
        for at in range(draw(st.integers(1, 3))):
            arguments = json.dumps({"said": talk.mark("text")})
            function = {"name": draw(st.sampled_from(names)), "arguments": arguments}
            calls.append({"id": f"c{turn}{at}", "type": "function", "function": function})
        message["tool_calls"] = calls
        for call in draw(st.permutations(calls)):
            content: Any = talk.mark("result")
            if draw(st.booleans()):
                content = [{"type": "text", "text": content}, part(talk, "image")]
            talk.messages.append({"role": "tool", "tool_call_id": call["id"], "content": content})
    return talk


Sent = tuple[Json, tuple[str, ...]]


def at_claude(model: str) -> Callable[[ChatRequest], Sent]:
    def send(request: ChatRequest) -> Sent:
        translated = to_anthropic(request, Upstream("a", "anthropic", "http://h", model))
        anthropic.check(of_anthropic(translated.body))
        names = [tool["name"] for tool in translated.body["tools"]]
        assert all(map(ANTHROPIC.allowed.fullmatch, names))
        return translated.body, translated.dropped

    return send


def at_gemini(model: str) -> Callable[[ChatRequest], Sent]:
    def send(request: ChatRequest) -> Sent:
        translated = to_google(request, Upstream("g", "google", "http://h", model))
        google.check(of_google(translated.body), signed=model.startswith("gemini-3"))
        names = [one["name"] for one in translated.body["tools"][0]["functionDeclarations"]]
        assert all(map(GEMINI.allowed.fullmatch, names))
        return translated.body, translated.dropped

    return send


def over(table: ParameterTable, *, official: bool) -> Callable[[ChatRequest], Sent]:
    def send(request: ChatRequest) -> Sent:
        there = Upstream("o", "openai", "http://h", "gpt-5")
        body, dropped = body_for(request, there, table), dropped_names(request, there, table)
        if official:
            of_openai(body)
            names = [tool["function"]["name"] for tool in body["tools"]]
            names += [call["function"]["name"] for one in body["messages"] for call in one.get("tool_calls") or ()]
            assert all(map(OPENAI.allowed.fullmatch, names))
        return body, dropped

    return send


def over_responses(request: ChatRequest) -> Sent:
    there = Upstream("o", "openai", "https://api.openai.com/v1", "gpt-5", wire="responses")
    translated = to_responses(request, there, table_at("https://api.openai.com/v1"))
    return translated.body, translated.dropped


def at_ollama(request: ChatRequest) -> Sent:
    translated = to_ollama(request, Upstream("l", "ollama", "http://h", "m"))
    return translated.body, translated.dropped


UNSIGNED = {"signed": "messages.thinking_blocks", "reasoning": "messages.reasoning_content"}
UNMARKED = {"cache": "messages.cache_control"}
PROVIDERS: dict[str, tuple[Callable[[ChatRequest], Sent], dict[str, str]]] = {
    "claude": (at_claude("claude-opus-4-8"), {"reasoning": "messages.reasoning_content"}),
    "older claude": (at_claude("claude-haiku-4-5"), {"reasoning": "messages.reasoning_content"}),
    "gemini": (at_gemini("gemini-3.5-flash"), UNSIGNED | UNMARKED),
    "older gemini": (at_gemini("gemini-2.5-flash"), UNSIGNED | UNMARKED),
    "openai": (over(table_at("https://api.openai.com/v1"), official=True), UNSIGNED | UNMARKED),
    "responses": (over_responses, UNSIGNED | UNMARKED),
    "compatible": (
        over(table_at("https://example.com/v1"), official=False),
        {"signed": "messages.thinking_blocks"},
    ),
    "ollama": (at_ollama, {"signed": "messages.thinking_blocks"} | UNMARKED),
    "worker": (over(table_of("llamacpp"), official=False), {"signed": "messages.thinking_blocks"} | UNMARKED),
}
"""How a request is sent to each, and the name of the loss of each kind of thing that it cannot hold."""


@settings(max_examples=80, deadline=None)
@given(talk=conversations())
@pytest.mark.parametrize("provider", PROVIDERS)
def test_nothing_that_a_provider_can_hold_is_lost_and_each_loss_is_named(
    provider: str, talk: Conversation
) -> None:
    send, losses = PROVIDERS[provider]
    try:
        body, dropped = send(talk.request)
    except (CapabilityMismatch, UnsupportedParameter):
        assert {kind for kind, _ in talk.marks} & {"audio", "pdf", "image"}
        return
    written = json.dumps(body, ensure_ascii=False)
    for kind, mark in talk.marks:
        found = mark in written or base64_of(mark) in written
        assert found or losses.get(kind) in dropped, f"{kind} is lost without a word"
    allowed = {*losses.values(), "messages.system"}
    assert set(dropped) <= allowed, "a loss that is none"
    texts = re.findall(r"m\d{3}text", written)
    assert texts == sorted(texts), "things stand in another order"


@settings(max_examples=40, deadline=None)
@given(talk=conversations())
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_translation_is_always_the_same_and_changes_no_request(provider: str, talk: Conversation) -> None:
    request = talk.request
    before = request.to_wire()
    try:
        first = PROVIDERS[provider][0](request)
    except (CapabilityMismatch, UnsupportedParameter):
        return
    assert request.to_wire() == before
    assert PROVIDERS[provider][0](request) == first
