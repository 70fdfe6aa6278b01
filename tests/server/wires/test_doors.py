"""The Responses API and Anthropic's Messages API, with their official SDKs."""

from __future__ import annotations

from typing import Any

import anthropic
import orjson
import pytest
from anthropic import AsyncAnthropic

from catalog.errors import QueueFull, RateLimited, UpstreamOverloaded, UpstreamTimeout, WorkerFailed
from server.wires.messages.models import model_info
from tests.server.api.test_openai_sdk import sdk
from tests.server.conftest import Gateway, Start
from tests.server.fakes import chunk

MESSAGE: Any = {"model": "parrot", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}


def claude(gateway: Gateway, key: str = "any") -> AsyncAnthropic:
    """Anthropic's client of the gateway, without retries."""
    return AsyncAnthropic(base_url=str(gateway.client.base_url), api_key=key, max_retries=0)


async def test_a_response_whole_and_streamed(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        whole = await client.responses.create(model="parrot", input="Hi")
        assert whole.output_text == "Hello there"
        assert whole.status == "completed"
        assert whole.usage is not None
        assert whole.usage.output_tokens == 2
        stream = await client.responses.create(model="parrot", input="Hi", stream=True)
        kinds = [item.type async for item in stream]
        assert kinds[:2] == ["response.created", "response.in_progress"]
        assert kinds.count("response.output_text.delta") == 2
        assert kinds[-1] == "response.completed"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/completions", {"prompt": "Hi"}),
        ("/v1/embeddings", {"input": "Hi"}),
        ("/v1/responses", {"input": "Hi"}),
        ("/v1/messages", {"max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}),
        ("/api/chat", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/api/embed", {"input": "Hi"}),
    ],
)
async def test_a_limit_outside_routing_is_refused_at_every_door(
    serve: Start, path: str, body: dict[str, Any]
) -> None:
    async with serve() as gateway:
        answer = await gateway.client.post(path, json={"model": "parrot", "max_cost": 0.1, **body})
        assert answer.status_code == 400
        assert "'max_cost' belongs in 'routing'" in answer.text


async def test_a_response_that_breaks_off_has_failed(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        gateway.backend.script = (chunk("Hel"), WorkerFailed("It died."))
        stream = await client.responses.create(model="parrot", input="Hi", stream=True)
        kinds = [item.type async for item in stream]
        assert kinds[-1] == "response.failed"
        assert "response.completed" not in kinds


async def test_messages_whole_and_streamed(serve: Start) -> None:
    asked: Any = {"model": "parrot", "messages": [{"role": "user", "content": "Hi"}]}
    async with serve(api_keys="any") as gateway, claude(gateway) as client:
        whole = await client.messages.create(max_tokens=100, **asked)
        assert [block.text for block in whole.content if block.type == "text"] == ["Hello there"]
        assert whole.stop_reason == "end_turn"
        async with client.messages.stream(max_tokens=100, **asked) as stream:
            assert "".join([text async for text in stream.text_stream]) == "Hello there"
        counted = await client.messages.count_tokens(**asked)
        assert counted.input_tokens > 0


async def test_errors_of_messages_are_anthropics(serve: Start) -> None:
    async with serve(api_keys="any") as gateway:
        gateway.backend.script = (QueueFull("Full.", retry_after=1),)
        async with claude(gateway) as client:
            with pytest.raises(anthropic.RateLimitError):
                await client.messages.create(**MESSAGE)
        async with claude(gateway, key="wrong") as client:
            with pytest.raises(anthropic.AuthenticationError) as refused:
                await client.messages.create(**MESSAGE)
        assert refused.value.response.json()["type"] == "error"


async def test_a_message_that_breaks_off_ends_with_an_error_event(gateway: Gateway) -> None:
    gateway.backend.script = (chunk("Hel"), WorkerFailed("It died."))
    answer = await gateway.client.post("/v1/messages", json={**MESSAGE, "stream": True})
    assert "event: message_start" in answer.text
    assert answer.text.rstrip().split("\n\n")[-1].startswith("event: error\n")
    assert "message_stop" not in answer.text
    assert "[DONE]" not in answer.text


async def test_unknown_paths_and_methods_below_messages_are_refused_in_anthropics_shape(gateway: Gateway) -> None:
    for method, path, status in (("GET", "/v1/messages/nowhere", 404), ("GET", "/v1/messages", 405)):
        refused = await gateway.client.request(method, path)
        assert refused.status_code == status
        body = refused.json()
        assert (body["type"], set(body["error"])) == ("error", {"type", "message"})
        assert body["request_id"] == refused.headers["x-request-id"]


async def test_anthropics_sdk_lists_the_models_in_pages(serve: Start) -> None:
    async with serve(api_keys="any") as gateway, claude(gateway) as client:
        every = [model.id async for model in client.models.list()]
        assert {"auto", "parrot", "songbird"} <= set(every)
        first = await client.models.list(limit=2)
        assert ([model.id for model in first.data], first.has_more) == (every[:2], True)
        assert (first.first_id, first.last_id) == (every[0], every[1])
        assert [model.id async for model in first] == every, "the SDK walks the pages by after_id"
        before = await client.models.list(limit=2, before_id=every[3])
        assert ([model.id for model in before.data], before.has_more) == (every[1:3], True)
        last = await client.models.list(after_id=every[-1])
        assert (last.data, last.has_more, last.first_id) == ([], False, None)
        parrot = await client.models.retrieve("polly")
        assert (parrot.id, parrot.type, parrot.display_name) == ("parrot", "model", "parrot")
        assert parrot.max_input_tokens == 4096
        assert parrot.created_at.tzinfo is not None
        assert (parrot.lifecycle, parrot.retires_at) == ("active", None)
        oracle = await client.models.retrieve("cloud/oracle")
        assert (oracle.lifecycle, str(oracle.retires_at)) == ("deprecated", "2027-01-14 00:00:00+00:00")


def test_a_models_capabilities_have_anthropics_names() -> None:
    card = {"id": "m", "created": 0, "capabilities": ["chat", "vision", "reasoning", "web_search"]}
    model = anthropic.types.ModelInfo.model_validate(model_info(card), strict=False)
    known = model.capabilities
    assert known is not None
    assert known.image_input.supported
    assert known.batch.supported
    assert known.thinking.types.adaptive.supported
    assert known.thinking.types.disabled.supported
    assert known.effort.low.supported
    assert known.server_tools.web_search.supported
    assert not known.pdf_input.supported
    assert not known.server_tools.code_execution.supported
    assert model_info({"id": "auto", "created": 0})["capabilities"] is None


async def test_anthropics_clients_get_errors_in_anthropics_shape_on_every_path(serve: Start) -> None:
    async with serve(api_keys="any") as gateway:
        async with claude(gateway) as client:
            for refused in (
                client.models.retrieve("nowhere"),
                client.models.list(after_id="nowhere"),
                client.models.list(limit=5000),
                client.get("/v1/skills", cast_to=object),
                client.messages.batches.retrieve("msgbatch_nowhere"),
            ):
                with pytest.raises(anthropic.APIStatusError) as raised:
                    await refused
                body = raised.value.response.json()
                assert (body["type"], set(body["error"])) == ("error", {"type", "message"})
                assert raised.value.status_code in (400, 404)
        async with claude(gateway, key="wrong") as client:
            with pytest.raises(anthropic.AuthenticationError) as unknown:
                await client.models.list()
            assert unknown.value.response.json()["error"]["type"] == "authentication_error"
        plain = (await gateway.client.get("/v1/models/nowhere", headers={"x-api-key": "any"})).json()
        assert set(plain["error"]) == {"message", "type", "param", "code"}, "other clients get OpenAI's"


async def test_counting_tokens_for_an_unknown_model_is_404(serve: Start) -> None:
    async with serve(api_keys="any") as gateway, claude(gateway) as client:
        with pytest.raises(anthropic.NotFoundError, match="nowhere"):
            await client.messages.count_tokens(model="nowhere", messages=MESSAGE["messages"])


@pytest.mark.parametrize("path", ["/", "/api/hello"])
async def test_a_client_may_ask_without_a_key_whether_a_server_is_there(serve: Start, path: str) -> None:
    async with serve(api_keys="any") as gateway:
        assert (await gateway.client.head(path)).status_code == 200
        assert (await gateway.client.get(path)).status_code == 401
        assert (await gateway.client.head("/v1/models")).status_code == 401


async def test_every_refusal_of_a_message_has_anthropics_shape_and_its_status(serve: Start) -> None:
    small = {"server": {"limits": {"body_bytes": 2000}}}
    async with serve(api_keys="any", **small) as gateway:
        key = {"x-api-key": "any", "content-type": "application/json"}
        body = orjson.dumps(MESSAGE)
        long = orjson.dumps({**MESSAGE, "system": "x" * 3000})
        cases: list[tuple[str, str, dict[str, str], bytes, int, str]] = [
            ("POST", "/v1/messages", {}, body, 401, "authentication_error"),
            ("POST", "/v1/messages?beta=true", key, b"{", 400, "invalid_request_error"),
            ("POST", "/v1/messages", key, b"[]", 400, "invalid_request_error"),
            ("POST", "/v1/messages", key, b"\xff", 400, "invalid_request_error"),
            ("POST", "/v1/messages", key, long, 413, "request_too_large"),
            ("PUT", "/v1/messages", key, body, 405, "invalid_request_error"),
            ("GET", "/v1/messages/count_tokens", key, b"", 405, "invalid_request_error"),
            ("POST", "/v1/messages/nowhere", key, body, 404, "not_found_error"),
            ("POST", "/v1/messages/count_tokens", key, b"{}", 400, "invalid_request_error"),
        ]
        for method, path, headers, content, status, kind in cases:
            refused = await gateway.client.request(method, path, headers=headers, content=content)
            told = refused.json()
            assert (refused.status_code, told["type"], told["error"]["type"]) == (status, "error", kind), path
            assert told["request_id"] == refused.headers["request-id"] == refused.headers["x-request-id"]
        for error, status, kind in (
            (RateLimited("Slow down.", retry_after=3), 429, "rate_limit_error"),
            (UpstreamOverloaded("Busy."), 503, "overloaded_error"),
            (UpstreamTimeout("Late."), 504, "timeout_error"),
            (WorkerFailed("It died."), 503, "overloaded_error"),
        ):
            gateway.backend.script = (error,)
            refused = await gateway.client.post("/v1/messages", headers=key, json=MESSAGE)
            assert (refused.status_code, refused.json()["error"]["type"]) == (status, kind)
