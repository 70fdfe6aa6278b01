"""A server that refuses the form of a request is asked in another, and first in that one from then on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from backends.asking import LASTS
from backends.base import Timeouts, Upstream
from backends.http import HttpClient
from backends.http.mismatch import refuses_form
from backends.notices import collect
from backends.openai.backend import OpenAIBackend
from backends.plain import asks_plainly
from backends.wire.chat import ChatRequest
from backends.wire.completions import CompletionRequest
from backends.wire.responses import ResponsesRequest
from catalog.errors import FirstByteTimeout, InvalidRequest, UpstreamOverloaded
from catalog.model import Wire
from server.wires.responses import to_chat
from tests.backends.answers import assemble_chat, assemble_completion
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Call, Fault
from tests.loop_time import virtual_time


class FakePicky(FakeOpenAI):
    """Refuses some of the forms of a request, with messages of known servers."""

    refuses: dict[str, str]
    status = 400

    def forms(self) -> list[str]:
        """The form of each call."""
        return [
            "plain" if not call.body.get("stream") else "stream" if "stream_options" in call.body else "bare"
            for call in self.calls
        ]

    def rejected(self, call: Call) -> web.Response | None:
        message = self.refuses.get(FakePicky.forms(self)[-1])
        if message is not None:
            return self.refused(call, self.status, message)
        return super().rejected(call)


OPTIONS = "Unknown parameter: 'stream_options'."
STREAM = "This model does not support streaming."
ONLY_STREAM = "This model only support stream mode, please enable the stream parameter to access the model."


@pytest.fixture
async def fake() -> AsyncIterator[FakePicky]:
    async with FakePicky() as server:
        server.refuses = {}
        yield server


@pytest.fixture
async def backend() -> AsyncIterator[OpenAIBackend]:
    async with HttpClient() as http:
        yield OpenAIBackend(http)


@pytest.fixture
def upstream(fake: FakePicky) -> Upstream:
    return Upstream("fake", "openai", fake.base_url, "fake-chat")


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "any", "messages": [{"role": "user", "content": "Hi"}], **fields})


@pytest.mark.parametrize("status", [400, 422, 501])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("refuses", "forms"),
    [
        ({"stream": OPTIONS}, ["stream", "bare", "bare"]),
        ({"stream": OPTIONS, "bare": STREAM}, ["stream", "bare", "plain", "plain"]),
        ({"stream": STREAM, "bare": STREAM}, ["stream", "plain", "plain"]),
    ],
    ids=["options", "both", "stream"],
)
async def test_a_refused_form_is_asked_again_in_another_and_remembered(
    fake: FakePicky,
    backend: OpenAIBackend,
    upstream: Upstream,
    refuses: dict[str, str],
    forms: list[str],
    stream: bool,
    status: int,
) -> None:
    fake.refuses, fake.status = refuses, status
    for _ in range(2):
        answer = await assemble_chat(backend.chat(upstream, chat(stream=stream)))
        assert answer["choices"][0]["message"]["content"] == fake.reply
        assert ("usage" in answer) == (forms[-1] == "plain")
    assert fake.forms() == forms


async def test_a_text_completion_does_the_same(
    fake: FakePicky, backend: OpenAIBackend, upstream: Upstream
) -> None:
    fake.refuses = {"stream": OPTIONS, "bare": STREAM}
    for _ in range(2):
        request = CompletionRequest.model_validate({"model": "any", "prompt": "Hi"})
        answer = await assemble_completion(backend.complete(upstream, request))
        assert answer["choices"][0]["text"] == fake.reply
    assert fake.forms() == ["stream", "bare", "plain", "plain"]


async def test_a_server_that_refuses_plain_requests_is_asked_for_a_stream(
    fake: FakePicky, backend: OpenAIBackend, upstream: Upstream
) -> None:
    fake.refuses = {"plain": ONLY_STREAM}
    for _ in range(2):
        answer = await assemble_chat(backend.chat(upstream, chat(max_tokens=20)))
        assert answer["usage"]["completion_tokens"] == 9
    assert fake.forms() == ["plain", "stream", "stream"]


@pytest.mark.parametrize(
    "message",
    ["The streamer's name is invalid.", "Invalid value for 'temperature'.", "tools are not supported", ""],
)
async def test_a_refusal_of_something_else_is_not_repeated(
    fake: FakePicky, backend: OpenAIBackend, upstream: Upstream, message: str
) -> None:
    fake.refuses = {"stream": message}
    with pytest.raises(InvalidRequest):
        await assemble_chat(backend.chat(upstream, chat()))
    assert fake.forms() == ["stream"]


async def test_what_every_form_refuses_is_refused_and_not_remembered(
    fake: FakePicky, backend: OpenAIBackend, upstream: Upstream
) -> None:
    fake.refuses = {"stream": OPTIONS, "bare": STREAM, "plain": "The prompt is not allowed."}
    with pytest.raises(InvalidRequest, match="The prompt is not allowed"):
        await assemble_chat(backend.chat(upstream, chat()))
    assert fake.forms() == ["stream", "bare", "plain"]
    assert not upstream.asked.known


async def test_a_failure_of_the_repetition_is_that_failure(
    fake: FakePicky, backend: OpenAIBackend, upstream: Upstream
) -> None:
    fake.script(Fault(status=400, message=OPTIONS), Fault(status=503))
    with pytest.raises(UpstreamOverloaded):
        await assemble_chat(backend.chat(upstream, chat()))


async def test_the_usual_form_is_tried_again_after_an_hour(
    fake: FakePicky, backend: OpenAIBackend, upstream: Upstream
) -> None:
    with virtual_time() as clock:
        fake.refuses = {"stream": STREAM}
        await assemble_chat(backend.chat(upstream, chat()))
        assert asks_plainly(chat(), upstream)
        fake.refuses = {}
        clock._now += LASTS
        assert not asks_plainly(chat(), upstream)
        await assemble_chat(backend.chat(upstream, chat()))
    assert fake.forms() == ["stream", "plain", "stream"]


async def test_a_long_answer_that_cannot_be_streamed_has_the_time_of_a_whole_answer(
    fake: FakePicky, backend: OpenAIBackend
) -> None:
    times = Timeouts(first_byte=1.0, total=10.0)
    upstream = Upstream("fake", "openai", fake.base_url, "fake-chat", timeouts=times)
    fake.refuses = {"stream": STREAM}
    with virtual_time():
        fake.script(Fault(), Fault(delay=5.0), Fault(delay=5.0))
        for _ in range(2):
            assert await assemble_chat(backend.chat(upstream, chat()))
        upstream = Upstream("fake", "openai", fake.base_url, "fake-chat", timeouts=times)
        fake.refuses = {}
        fake.script(Fault(delay=5.0))
        with pytest.raises(FirstByteTimeout):
            await assemble_chat(backend.chat(upstream, chat()))


@pytest.mark.parametrize(
    ("param", "message", "field"),
    [
        ("stream_options", "", "stream_options"),
        ("stream_options.include_usage", "", "stream_options"),
        (None, "[] is too short - 'stream_options' is not supported", "stream_options"),
        (None, "body.stream_options: Extra inputs are not permitted", "stream_options"),
        (None, "Unrecognized request argument supplied: stream_options", "stream_options"),
        (None, "property 'stream_options' is unsupported", "stream_options"),
        ("stream", "Unsupported value: 'stream' does not support true with this model.", "stream"),
        (None, STREAM, "stream"),
        (None, ONLY_STREAM, "stream"),
        (None, "Your organization must be verified to stream this model.", "stream"),
        (None, "Streaming is disabled for this deployment", "stream"),
        (None, "upstream not found", None),
        ("messages", "The model cannot read this.", None),
    ],
)
def test_the_refused_field_is_read_from_what_servers_say(
    param: str | None, message: str, field: str | None
) -> None:
    assert refuses_form(param, message) == field


async def test_a_response_is_asked_for_in_the_form_that_its_server_takes(
    fake: FakePicky, backend: OpenAIBackend
) -> None:
    far = Upstream("far", "openai", fake.base_url, "fake-chat", wire="responses")
    asked: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    shown = ChatRequest.model_validate({**asked, "stream_options": {"include_obfuscation": False}})
    fake.refuses = {"stream": OPTIONS}
    assert (await assemble_chat(backend.chat(far, shown)))["usage"]["completion_tokens"] > 0
    assert fake.forms() == ["stream", "bare"]
    assert not far.asked.known, "its streams report the usage in any form"
    fake.calls.clear()
    fake.refuses = {"bare": STREAM}
    fake.streams = False
    for _ in range(2):
        answer = await assemble_chat(backend.chat(far, ChatRequest.model_validate(asked)))
        assert answer["choices"][0]["message"]["content"] == fake.reply
    assert fake.forms() == ["bare", "plain", "plain"]
    fake.calls.clear()
    fake.refuses = {"plain": ONLY_STREAM}
    fake.streams = True
    await assemble_chat(backend.chat(far, ChatRequest.model_validate(asked)))
    assert fake.forms() == ["plain", "bare"]


class FakeTemplate(FakeOpenAI):
    """A server whose template takes no system message but the first."""

    def rejected(self, call: Call) -> web.Response | None:
        if any(message["role"] == "system" for message in call.body["messages"][1:]):
            return self.refused(call, 400, "System message must be at the beginning.")
        return super().rejected(call)


@pytest.mark.parametrize("limit", [None, 5])
async def test_system_messages_that_a_template_refuses_are_moved_to_the_beginning_and_the_next_at_once(
    backend: OpenAIBackend, limit: int | None
) -> None:
    told = [("system", "One."), ("user", "Hi"), ("system", "Two."), ("assistant", "Yes?"), ("user", "Go on.")]
    request = ChatRequest.model_validate(
        {"model": "m", "max_tokens": limit, "messages": [{"role": role, "content": text} for role, text in told]}
    )
    async with FakeTemplate() as strict:
        upstream = Upstream("far", "openai", strict.base_url, "fake-chat")
        for _ in range(2):
            assert (await assemble_chat(backend.chat(upstream, request)))["choices"]
        assert [call.body["messages"][0]["content"] for call in strict.calls] == ["One.", *["One.\n\nTwo."] * 2]
        assert [message["role"] for message in strict.calls[-1].body["messages"]] == [
            "system", "user", "assistant", "user",
        ]  # fmt: skip
        assert upstream.asked.system_first
        assert upstream.asked.plain is None
        assert not upstream.asked.bare


class FakeStrict(FakeOpenAI):
    """A server of unknown make that knows few fields and roles, and names one at a time."""

    unknown: tuple[str, ...] = ("prompt_cache_key", "client_metadata", "metadata")
    says = "Unknown parameter: '{}'."
    of_role = "messages[0].role: unknown variant `developer`, expected one of `system`, `user`"

    def rejected(self, call: Call) -> web.Response | None:
        given = call.body.get("messages", call.body.get("input")) or ()
        if any(message.get("role") == "developer" for message in given):
            return self.refused(call, 400, self.of_role)
        for name in self.unknown:
            if name in call.body:
                return self.refused(call, 400, self.says.format(name))
        return super().rejected(call)


CODEX: dict[str, Any] = {
    "model": "m",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
    ],
    "prompt_cache_key": "k",
    "metadata": {"a": "b"},
    "client_metadata": {"a": "b"},
    "temperature": 0.5,
}


@pytest.mark.parametrize("wire", ["chat", "responses"])
@pytest.mark.parametrize(
    ("says", "of_role"),
    [
        ("Unknown parameter: '{}'.", "Unexpected message role."),
        ("{}: Extra inputs are not permitted", "Input should be 'system', 'user' or 'assistant', got 'developer'"),
        ("Unrecognized request argument supplied: {}", "messages.0.role: Input should be 'system' or 'user'"),
    ],
)
async def test_hints_and_a_role_that_a_server_refuses_are_left_out_and_at_once_the_next_time(
    backend: OpenAIBackend, says: str, of_role: str, wire: Wire
) -> None:
    async with FakeStrict() as strict:
        strict.says, strict.of_role = says, of_role
        upstream = Upstream("far", "openai", strict.base_url, "fake-chat", wire=wire)
        for more in (True, False):
            notes = collect()
            before = len(strict.calls)
            request = to_chat(ResponsesRequest.model_validate(CODEX))
            answer = [chunk async for chunk in backend.chat(upstream, request)]
            assert answer
            assert (len(strict.calls) - before > 1) is more
            left_out = {"prompt_cache_key", "metadata", *(["client_metadata"] if wire == "responses" else [])}
            assert set(notes.dropped) == left_out
            sent = strict.calls[-1].body
            assert sent.keys().isdisjoint(FakeStrict.unknown)
            assert sent["temperature"] == 0.5
            given = sent["messages" if wire == "chat" else "input"]
            assert [message["role"] for message in given] == ["system", "user"]


@pytest.mark.parametrize(
    "message",
    [
        "Invalid 'prompt_cache_key': string too long. Expected at most 64 characters.",
        "Unknown parameter: 'temperature'.",
        "Roles must alternate between 'user' and 'assistant', and metadata is nothing.",
    ],
)
async def test_a_refusal_that_concerns_no_hint_leaves_none_out(backend: OpenAIBackend, message: str) -> None:
    async with FakeOpenAI() as fake:
        fake.script(Fault(status=400, message=message))
        upstream = Upstream("far", "openai", fake.base_url, "fake-chat")
        with pytest.raises(InvalidRequest):
            await assemble_chat(
                backend.chat(upstream, chat(prompt_cache_key="k", metadata={"a": "b"}, temperature=1))
            )
        assert len(fake.calls) == 1
        assert not upstream.asked.known


async def test_what_was_learned_of_a_server_is_forgotten_after_an_hour(backend: OpenAIBackend) -> None:
    async with FakeStrict() as strict:
        upstream = Upstream("far", "openai", strict.base_url, "fake-chat")
        with virtual_time() as clock:
            await assemble_chat(backend.chat(upstream, chat(prompt_cache_key="k")))
            assert upstream.asked.lacked == {"prompt_cache_key"}
            clock._now += LASTS
            assert not upstream.asked.recall()
            assert not upstream.asked.lacked
