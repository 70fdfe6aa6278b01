"""System messages, files, tiers, cache marks, places and choices: kept by each provider, told, or refused."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.anthropic import AnthropicBackend
from backends.anthropic.request import translate as to_anthropic
from backends.base import Upstream
from backends.google.request import translate as to_google
from backends.http import HttpClient
from backends.local.parameters import table_of
from backends.ollama.backend import V1 as OLLAMA
from backends.ollama.request import translate as to_ollama
from backends.openai.parameters import COMPATIBLE, table_at
from backends.openai.responses.request import translate as to_responses
from backends.parameters import ParameterTable, body_for, dropped_names
from backends.wire.chat import ChatRequest, TranslatedChat
from backends.wire.completions import CompletionRequest
from catalog.errors import CapabilityMismatch, InvalidRequest, UndecodableMedia, UnsupportedParameter
from catalog.types import Json
from tests.backends.specs import of_anthropic, of_google, of_openai
from tests.fakes.anthropic import FakeAnthropic

OPENAI, ELSEWHERE = "https://api.openai.com/v1", "https://example.com/v1"
NEW, OLD = "claude-opus-4-8", "claude-haiku-4-5"
Sent = tuple[Json, tuple[str, ...]]
HELLO = {"role": "user", "content": "Hi"}


def asked(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [HELLO], **fields})


def claude(model: str = NEW, parameters: frozenset[str] | None = None, **fields: Any) -> Sent:
    there = Upstream("a", "anthropic", "http://h", model, parameters=parameters)
    translated = to_anthropic(asked(**fields), there)
    return of_anthropic(translated.body), translated.dropped


def gemini(**fields: Any) -> Sent:
    translated = to_google(asked(**fields), Upstream("g", "google", "http://h", "gemini-3.5-flash"))
    return of_google(translated.body), translated.dropped


def over(table: ParameterTable, **fields: Any) -> Sent:
    there, request = Upstream("o", "openai", "http://h", "gpt-5"), asked(**fields)
    return body_for(request, there, table), dropped_names(request, there, table)


def openai(**fields: Any) -> Sent:
    body, dropped = over(table_at(OPENAI), **fields)
    return of_openai(body), dropped


def compatible(**fields: Any) -> Sent:
    return over(table_at(ELSEWHERE), **fields)


def local(**fields: Any) -> Sent:
    return over(table_of("llamacpp"), **fields)


def at_ollama(**fields: Any) -> Sent:
    """Over Ollama's own API, after the same request over its ``/v1``."""
    over(OLLAMA, **fields)
    translated = to_ollama(asked(**fields), Upstream("l", "ollama", "http://h", "m"))
    return translated.body, translated.dropped


EVERYWHERE: list[Callable[..., Sent]] = [claude, gemini, openai, compatible, local, at_ollama]

# ---- system messages


def roles(messages: str, model: str = NEW) -> tuple[str, str, tuple[str, ...]]:
    """``(letters of the system prompt, turns, dropped)`` of a conversation: s, u, a, and their numbers."""
    names = {"s": "system", "u": "user", "a": "assistant"}
    said = [{"role": names[one], "content": f"{one}{at}"} for at, one in enumerate(messages)]
    body, dropped = claude(model, messages=said)
    told = " ".join(block["text"] for block in body.get("system", ()))
    turns = " ".join(
        turn["role"][0] + "".join(block["text"][1:] for block in turn["content"]) for turn in body["messages"]
    )
    return told, turns, dropped


@pytest.mark.parametrize(
    ("messages", "system", "turns", "moved"),
    [
        ("suau", "s0", "u1 a2 u3", False),
        ("sus", "s0", "u1 s2", False),
        ("susau", "s0", "u1 s2 a3 u4", False),
        ("ssussa", "s0 s1", "u2 s34 a5", False),
        ("usu", "", "u02 s1", True),
        ("uasu", "", "u0 a1 u3 s2", True),
        ("uas", "s2", "u0 a1", True),
        ("uasasu", "", "u0 a13 u5 s24", True),
    ],
)
def test_system_messages_stay_where_a_model_takes_them_or_are_told_to_have_moved(
    messages: str, system: str, turns: str, moved: bool
) -> None:
    assert roles(messages) == (system, turns, ("messages.system",) if moved else ())


@settings(max_examples=60, deadline=None)
@given(st.text("sua", min_size=1, max_size=9).filter(lambda said: set(said) > {"s"} or said.strip("s")))
def test_no_system_message_is_lost_or_stands_where_anthropic_refuses_it(messages: str) -> None:
    told, turns, _ = roles(messages)
    placed = turns.split()
    numbers = sorted(int(digit) for digit in "".join(c for c in told + turns if c.isdigit()))
    assert numbers == list(range(len(messages)))
    for at, turn in enumerate(placed):
        if turn[0] == "s":
            assert at > 0
            assert placed[at - 1][0] == "u"
            assert at + 1 == len(placed) or placed[at + 1][0] == "a"


def test_older_models_and_gemini_have_one_system_prompt_and_that_is_told() -> None:
    assert roles("sus", OLD) == ("s0 s2", "u1", ("messages.system",))
    assert roles("su", OLD)[2] == ()
    later = [HELLO, {"role": "developer", "content": "Be brief."}]
    body, dropped = gemini(messages=later)
    assert body["systemInstruction"]["parts"] == [{"text": "Be brief."}]
    assert dropped == ("messages.system",)
    assert gemini(messages=later[::-1])[1] == ()
    assert openai(messages=later)[0]["messages"] == later


# ---- files


def file(data: bytes | str, kind: str = "text/markdown", **fields: Any) -> list[Json]:
    raw = data if isinstance(data, bytes) else data.encode()
    url = f"data:{kind};base64,{base64.b64encode(raw).decode()}"
    return [{"role": "user", "content": [{"type": "file", "file": {"file_data": url, **fields}}]}]


@pytest.mark.parametrize("kind", ["text/plain", "text/csv", "application/json", "application/ld+json"])
def test_a_text_file_is_a_document_of_claude_and_a_text_where_no_file_is_taken(kind: str) -> None:
    messages = file("# Füchse", kind, filename="fox.md")
    block = claude(messages=messages)[0]["messages"][0]["content"][0]
    assert block == {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": "# Füchse"},
        "title": "fox.md",
    }
    for send in (openai, compatible, local, at_ollama):
        content = send(messages=messages)[0]["messages"][0]["content"]
        text = content if isinstance(content, str) else content[0]["text"]
        assert text == "File fox.md:\n\n# Füchse"
    assert gemini(messages=messages)[0]["contents"][0]["parts"][0]["inlineData"]["mimeType"] == kind
    there = Upstream("o", "openai", OPENAI, "gpt-5", wire="responses")
    sent = to_responses(asked(messages=messages), there, table_at(OPENAI)).body["input"][0]["content"][0]
    assert sent["type"] == "input_file"


def test_pictures_as_files_are_pictures_and_what_no_claude_reads_is_a_mismatch() -> None:
    image = claude(messages=file(b"x", "image/png"))[0]["messages"][0]["content"][0]
    assert (image["type"], image["source"]["media_type"]) == ("image", "image/png")
    with pytest.raises(CapabilityMismatch, match="application/zip"):
        claude(messages=file(b"x", "application/zip"))
    for send in (claude, openai):
        with pytest.raises(UndecodableMedia, match="UTF-8"):
            send(messages=file(b"\xff\xfe\x00"))


def test_a_chat_of_openai_has_no_file_by_address() -> None:
    linked = [{"role": "user", "content": [{"type": "file", "file": {"file_url": "https://example.com/a.pdf"}}]}]
    with pytest.raises(UnsupportedParameter, match="file_data"):
        openai(messages=linked)
    assert claude(messages=linked)[0]["messages"][0]["content"][0]["source"]["type"] == "url"


def test_a_file_by_address_goes_to_a_server_of_unknown_make_only_if_its_caller_speaks_its_wire() -> None:
    body = {
        "model": "m",
        "messages": [
            {"role": "user", "content": [{"type": "file", "file": {"file_url": "https://e.example/a.pdf"}}]}
        ],
    }
    anywhere = Upstream("lan", "openai", "http://lan.example/v1", "m")
    sent = body_for(ChatRequest.model_validate(body), anywhere, COMPATIBLE)
    assert sent["messages"] == body["messages"]
    with pytest.raises(UnsupportedParameter, match="file_data"):
        body_for(TranslatedChat.of(body, (), frozenset(), None), anywhere, COMPATIBLE)


# ---- constraints


@pytest.mark.parametrize(
    ("name", "value", "neutral", "native"),
    [
        ("inference_geo", "us", "global", claude),
        ("safety_settings", [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}], [], gemini),
        ("moderation", {"model": "omni-moderation-latest"}, None, openai),
    ],
)
def test_a_promise_about_the_answer_is_kept_or_refused_and_never_left_out(
    name: str, value: Any, neutral: Any, native: Callable[..., Sent]
) -> None:
    for send in EVERYWHERE:
        assert name not in send(**{name: neutral})[1]
        if send is native:
            body, dropped = send(**{name: value})
            assert value in body.values()
            assert dropped == ()
            continue
        with pytest.raises(UnsupportedParameter, match=name) as refused:
            send(**{name: value})
        assert refused.value.param == name
    there = Upstream("o", "openai", OPENAI, "gpt-5", wire="responses")
    if native is openai:
        assert to_responses(asked(**{name: value}), there, table_at(OPENAI)).body[name] == value
    else:
        with pytest.raises(UnsupportedParameter, match=name):
            to_responses(asked(**{name: value}), there, table_at(OPENAI))


def test_a_rows_list_of_parameters_does_not_take_a_constraint_away() -> None:
    body, dropped = claude(parameters=frozenset({"max_tokens"}), inference_geo="us", temperature=1.0)
    assert body["inference_geo"] == "us"
    assert dropped == ("temperature",)
    there = Upstream("o", "openai", OPENAI, "gpt-5", parameters=frozenset({"seed"}))
    request = asked(moderation={"model": "m"})
    assert body_for(request, there, table_at(OPENAI))["moderation"] == {"model": "m"}
    assert dropped_names(request, there, table_at(OPENAI)) == ()
    proxy = replace(there, base_url=ELSEWHERE, parameters=frozenset({"inference_geo"}))
    assert body_for(asked(inference_geo="us"), proxy, table_at(ELSEWHERE))["inference_geo"] == "us"


# ---- tiers and speed


@pytest.mark.parametrize(
    ("tier", "of_claude", "of_gemini"),
    [
        ("auto", "auto", None),
        ("default", None, None),
        ("flex", "!", "flex"),
        ("priority", "!", "priority"),
        ("fast", "!", "priority"),
        ("scale", "!", "!"),
        ("standard_only", "standard_only", "!"),
    ],
)
def test_a_service_tier_is_the_providers_own_or_told(
    tier: str, of_claude: str | None, of_gemini: str | None
) -> None:
    for send, name, want in ((claude, "service_tier", of_claude), (gemini, "serviceTier", of_gemini)):
        body, dropped = send(service_tier=tier)
        assert body.get(name) == (None if want == "!" else want)
        assert dropped == (("service_tier",) if want == "!" else ())
    assert compatible(service_tier=tier)[0]["service_tier"] == tier


async def test_speed_goes_to_claude_with_its_beta() -> None:
    async with FakeAnthropic() as fake, HttpClient() as http:
        own = {"anthropic-beta": "mine"}
        there = Upstream("a", "anthropic", fake.origin, NEW, api_key=fake.key)
        for upstream in (there, replace(there, headers=own)):
            for fields in ({}, {"speed": "fast"}):
                async for _ in AnthropicBackend(http).chat(upstream, asked(**fields)):
                    pass
        betas = [call.headers.get("anthropic-beta") for call in fake.calls]
    assert betas == [None, "fast-mode-2026-02-01", "mine", "mine,fast-mode-2026-02-01"]
    assert [call.body.get("speed") for call in fake.calls] == [None, "fast"] * 2


# ---- cache marks and other providers' fields

MARK = {"type": "ephemeral"}


def marked(**fields: Any) -> Json:
    part = {"type": "text", "text": "Hi", **fields}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}, **fields}
    return {"messages": [{"role": "user", "content": [part]}], "tools": [tool]}


def test_cache_marks_go_to_claude_and_reach_no_other_provider_unseen() -> None:
    body, dropped = claude(**marked(cache_control=MARK))
    assert body["messages"][0]["content"][0]["cache_control"] == body["tools"][0]["cache_control"] == MARK
    assert dropped == ()
    for send in (openai, local, at_ollama, gemini):
        body, dropped = send(**marked(cache_control=MARK))
        assert "cache_control" not in str(body)
        assert "messages.cache_control" in dropped
    assert compatible(**marked(cache_control=MARK))[0]["tools"][0]["cache_control"] == MARK


def test_openais_cache_breakpoints_are_claudes() -> None:
    messages = marked(prompt_cache_breakpoint={"mode": "explicit"})["messages"]
    assert openai(messages=messages)[0]["messages"] == messages
    block = claude(messages=messages)[0]["messages"][0]["content"][0]
    assert block["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert gemini(messages=messages)[1] == ("messages.prompt_cache_breakpoint",)


@pytest.mark.parametrize("send", [claude, gemini, at_ollama])
def test_unknown_fields_of_messages_parts_and_tools_are_named_where_the_chat_is_translated(
    send: Callable[..., Sent],
) -> None:
    tools = [{"type": "function", "later": 1, "function": {"name": "f", "odd": 2}}]
    messages = [{"role": "user", "own": 3, "content": [{"type": "text", "text": "Hi", "more": 4, "none": None}]}]
    dropped = send(messages=messages, tools=tools)[1]
    assert set(dropped) == {"messages.own", "messages.more", "tools.later", "tools.function.odd"}


def test_a_cache_breakpoint_that_is_lost_or_shortened_is_named() -> None:
    messages = marked(prompt_cache_breakpoint={"mode": "explicit", "ttl": "12h"})["messages"]
    assert claude(messages=messages)[1] == ("messages.prompt_cache_breakpoint.ttl",)
    assert at_ollama(messages=messages)[1] == ("messages.prompt_cache_breakpoint",)
    tools = marked(cache_control=MARK)["tools"]
    assert gemini(messages=[{"role": "user", "content": "Hi"}], tools=tools)[1] == ("messages.cache_control",)


def test_fields_of_other_answers_never_reach_openai_and_are_named() -> None:
    said = {
        "role": "assistant",
        "content": "Yes.",
        "thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "s"}],
        "reasoning_content": "Hm.",
        "extra_content": {"google": {"thought_signature": "c2ln"}},
    }
    body, dropped = openai(messages=[HELLO, said, HELLO])
    assert body["messages"][1] == {"role": "assistant", "content": "Yes."}
    named = {f"messages.{name}" for name in ("thinking_blocks", "reasoning_content", "extra_content")}
    assert set(dropped) == named
    for send, lost in (
        (gemini, {"messages.thinking_blocks", "messages.reasoning_content"}),
        (local, named - {"messages.reasoning_content"}),
        (at_ollama, named - {"messages.reasoning_content"}),
        (claude, {"messages.extra_content"}),
    ):
        assert set(send(messages=[HELLO, said, HELLO])[1]) == lost
    unsigned = {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}
    assert claude(messages=[HELLO, unsigned, HELLO])[1] == ("messages.reasoning_content",)


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        ("llama-4", set()),
        ("google/gemini-3-flash", {"extra_content"}),
        ("anthropic/Claude-Opus-5", {"thinking_blocks"}),
    ],
)
def test_a_compatible_server_is_not_sent_what_another_makers_model_gave(model: str, kept: set[str]) -> None:
    given: Json = {
        "thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "s"}],
        "extra_content": {"google": {"thought_signature": "c2ln"}},
        "server_tool_calls": [{"type": "web_search_call", "id": "ws_1"}],
    }
    mine: Json = {"reasoning_content": "Hm.", "cache_control": MARK}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    said = {"role": "assistant", "content": "Yes.", **given, **mine, "tool_calls": [{**call, **given}]}
    messages = [HELLO, said, {"role": "tool", "tool_call_id": "c", "content": "1"}]
    there, request = Upstream("o", "openai", "http://h", model), asked(messages=messages)
    table = table_at(ELSEWHERE)
    body, dropped = body_for(request, there, table), dropped_names(request, there, table)
    for holder in (body["messages"][1], body["messages"][1]["tool_calls"][0]):
        assert holder.keys() & given.keys() == kept
    assert body["messages"][1].keys() >= mine.keys(), "fields that the caller wrote are the server's to judge"
    assert set(dropped) == {f"messages.{name}" for name in given.keys() - kept}


# ---- choices


def test_several_choices_are_never_answered_with_one() -> None:
    for send in (claude, at_ollama):
        with pytest.raises(UnsupportedParameter) as refused:
            send(n=2)
        assert refused.value.param == "n"
        assert send(n=1)[1] == ()
    request = CompletionRequest.model_validate({"model": "m", "prompt": "a", "n": 3})
    with pytest.raises(InvalidRequest):
        body_for(request, Upstream("o", "ollama", "http://h", "m"), OLLAMA)
    assert local(n=3)[0]["n"] == openai(n=3)[0]["n"] == 3
