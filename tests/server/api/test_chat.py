"""POST /v1/chat/completions over a scripted backend."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from catalog.errors import CapabilityMismatch, IdleTimeout, QueueFull
from tests.loop_time import virtual_time
from tests.server.conftest import Gateway, Start
from tests.server.fakes import ANSWER, chunk, usage_chunk

PATH = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "parrot", "messages": [{"role": "user", "content": "Hi"}]}


def events(text: str) -> list[Any]:
    """The data of each event; ``[DONE]`` as it is."""
    data = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [item if item == "[DONE]" else orjson.loads(item) for item in data]


async def test_a_plain_answer_is_assembled_from_the_stream(gateway: Gateway) -> None:
    answer = await gateway.client.post(PATH, json=BODY)
    assert answer.status_code == 200
    body = answer.json()
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == "Hello there"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert answer.headers["x-roundhouse-model"] == "parrot"
    assert len(answer.headers["x-roundhouse-trace"]) == 32


async def test_a_stream_without_include_usage_has_no_usage(gateway: Gateway) -> None:
    answer = await gateway.client.post(PATH, json={**BODY, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events(answer.text)
    assert done == "[DONE]"
    assert [c["choices"][0]["delta"].get("content") for c in chunks] == ["Hello", " there", None]
    assert all("usage" not in c for c in chunks)


async def test_a_stream_with_usage_ends_with_a_chunk_without_choices(gateway: Gateway) -> None:
    answer = await gateway.client.post(
        PATH, json={**BODY, "stream": True, "stream_options": {"include_usage": True}}
    )
    *chunks, last, done = events(answer.text)
    assert done == "[DONE]"
    assert all(c["usage"] is None for c in chunks)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert last["id"] == chunks[0]["id"]


async def test_usage_beside_choices_is_moved_to_a_chunk_of_its_own(gateway: Gateway) -> None:
    gateway.backend.script = (chunk("a"), chunk(finish="stop", usage=usage_chunk()["usage"]))
    answer = await gateway.client.post(
        PATH, json={**BODY, "stream": True, "stream_options": {"include_usage": True}}
    )
    *chunks, last, _ = events(answer.text)
    assert [c["usage"] for c in chunks] == [None, None]
    assert last["usage"]["total_tokens"] == 5


async def test_an_error_before_the_first_chunk_is_an_http_status_in_a_stream_too(gateway: Gateway) -> None:
    gateway.backend.script = (QueueFull("The queue is full.", retry_after=3),)
    answer = await gateway.client.post(PATH, json={**BODY, "stream": True})
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "3"
    assert answer.json()["error"]["code"] == "queue_full"


async def test_an_error_after_the_first_chunk_is_an_event_and_never_done(gateway: Gateway) -> None:
    gateway.backend.script = (chunk("Hel"), IdleTimeout("Too long between two chunks."))
    answer = await gateway.client.post(PATH, json={**BODY, "stream": True})
    assert answer.status_code == 200
    first, error = events(answer.text)
    assert first["choices"][0]["delta"]["content"] == "Hel"
    assert error["error"]["code"] == "idle_timeout"
    assert "[DONE]" not in answer.text


async def test_a_stream_that_ends_without_a_finish_reason_is_broken(gateway: Gateway) -> None:
    gateway.backend.script = (chunk("Hel"),)
    answer = await gateway.client.post(PATH, json={**BODY, "stream": True})
    assert events(answer.text)[-1]["error"]["code"] == "stream_broken"
    assert "[DONE]" not in answer.text


async def test_a_plain_answer_that_breaks_off_is_an_error(gateway: Gateway) -> None:
    gateway.backend.script = (chunk("Hel"), IdleTimeout("Too long between two chunks."))
    answer = await gateway.client.post(PATH, json=BODY)
    assert answer.status_code == 504


async def test_while_a_model_loads_the_headers_leave_and_comments_keep_the_connection(start: Start) -> None:
    async with start(server={"streams": {"headers_after": 10, "ping": 15}}) as gateway:
        gateway.dispatcher.gate = asyncio.Event()

        async def load() -> None:
            await gateway.dispatcher.waiting.wait()
            await asyncio.sleep(60)
            assert gateway.dispatcher.gate is not None
            gateway.dispatcher.gate.set()

        with virtual_time():
            loading = asyncio.create_task(load())
            answer = await gateway.client.post(PATH, json={**BODY, "stream": True})
            await loading
    assert answer.text.startswith(": waiting for the model\n\n")
    assert answer.text.count(": keep-alive\n\n") == 3, "at 25, 40 and 55 seconds"
    assert answer.headers["x-roundhouse-trace"]
    assert events(answer.text)[-1] == "[DONE]"


async def test_an_error_after_the_headers_left_is_an_event(start: Start) -> None:
    async with start(server={"streams": {"headers_after": 10}}) as gateway:
        gate = asyncio.Event()
        gateway.backend.script = (gate, CapabilityMismatch("It cannot."))
        with virtual_time():
            asyncio.get_running_loop().call_later(20, gate.set)
            answer = await gateway.client.post(PATH, json={**BODY, "stream": True})
    assert answer.status_code == 200
    assert [e["error"]["code"] for e in events(answer.text)] == ["model_capability_mismatch"]


@pytest.mark.parametrize("wanted", [{"stream": False}, {}])
async def test_stream_options_without_a_stream_are_refused(gateway: Gateway, wanted: dict[str, Any]) -> None:
    answer = await gateway.client.post(PATH, json={**BODY, **wanted, "stream_options": {"include_usage": True}})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "stream_options"


async def test_completions_take_the_same_path(gateway: Gateway) -> None:
    body = {"model": "parrot", "prompt": "Once"}
    plain = await gateway.client.post("/v1/completions", json=body)
    assert plain.json()["choices"][0]["text"] == "Hello there"
    streamed = await gateway.client.post("/v1/completions", json={**body, "stream": True})
    *chunks, done = events(streamed.text)
    assert "".join(c["choices"][0]["text"] for c in chunks) == "Hello there"
    assert done == "[DONE]"
    assert len(gateway.backend.requests) == 2
    assert len(ANSWER) == 4


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}


@pytest.mark.parametrize(
    ("before", "result", "param"),
    [
        ([], {"tool_call_id": "c1"}, "messages[0].role"),
        ([BODY["messages"][0]], {}, "messages[1].role"),
        ([CALLED], {"tool_call_id": "c2"}, "messages[1].tool_call_id"),
        ([CALLED, BODY["messages"][0]], {"tool_call_id": "c1"}, None),
        ([CALLED], {}, None),
    ],
)
async def test_a_result_without_its_call_is_refused(
    gateway: Gateway, before: Any, result: Any, param: Any
) -> None:
    messages = [*before, {"role": "tool", "content": "5", **result}]
    answer = await gateway.client.post(PATH, json={**BODY, "messages": messages})
    assert answer.status_code == (400 if param else 200)
    assert answer.json().get("error", {}).get("param") == param


async def test_a_name_that_is_not_valid_is_told_apart_from_its_value(gateway: Gateway) -> None:
    answer = await gateway.client.post(PATH, json={**BODY, "logit_bias": {"hello": 5}})
    assert "'logit_bias.hello': this name is not valid; it must match" in answer.json()["error"]["message"]
    answer = await gateway.client.post(PATH, json={**BODY, "logit_bias": {"5": 500}})
    assert answer.json()["error"]["message"] == "'logit_bias.5': it must be at most 100 (it is 500)."


@pytest.mark.parametrize("store", ["true", 1, [], {}])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
async def test_store_is_true_or_false(gateway: Gateway, path: str, store: object) -> None:
    asked = {"model": "parrot", "messages": [{"role": "user", "content": "Hi"}], "input": "Hi", "store": store}
    refused = await gateway.client.post(path, json=asked)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "store")
    assert not gateway.backend.requests


@pytest.mark.parametrize("metadata", [{str(n): "" for n in range(17)}, {"a": "x" * 513}, {"a" * 65: ""}])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/conversations"])
async def test_metadata_has_openais_bounds_everywhere(
    gateway: Gateway, path: str, metadata: dict[str, str]
) -> None:
    asked = {"model": "parrot", "messages": [{"role": "user", "content": "Hi"}], "input": "Hi"}
    if path == "/v1/conversations":
        asked = {}
    refused = await gateway.client.post(path, json={**asked, "metadata": metadata})
    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["param"].startswith("metadata")
