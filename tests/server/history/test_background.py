"""Background responses: they outlive their request, are followed and resumed, cancelled, and never made twice."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response

from catalog.errors import WorkerFailed
from server.storage import runner as module
from tests.server.api.test_openai_sdk import sdk
from tests.server.conftest import Gateway, Start
from tests.server.fakes import ANSWER, chunk, usage_chunk
from tests.server.history.test_responses import runtime_of

ASK: Any = {"model": "parrot", "input": "Hi", "background": True}


async def ended(client: AsyncOpenAI, name: str) -> Response:
    async with asyncio.timeout(10):
        while True:
            response = await client.responses.retrieve(name)
            if response.status not in ("queued", "in_progress"):
                return response
            await asyncio.sleep(0.02)


async def begun(gateway: Gateway) -> None:
    async with asyncio.timeout(10):
        await gateway.backend.started.wait()


async def test_a_background_response_goes_on_after_its_request(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        gate = asyncio.Event()
        gateway.backend.script = (chunk("Hello"), gate, chunk(" there"), chunk(finish="stop"), usage_chunk())
        queued = await client.responses.create(**ASK)
        assert (queued.status, queued.background, queued.output) == ("queued", True, [])
        await begun(gateway)
        with pytest.raises(openai.BadRequestError, match="not finished"):
            await client.responses.create(model="parrot", input="Two", previous_response_id=queued.id)
        gate.set()
        done = await ended(client, queued.id)
        assert (done.status, done.output_text, done.background, (done.model_extra or {})["store"]) == (
            *("completed", "Hello there", True, True),
        )
        second = await client.responses.create(model="parrot", input="Two", previous_response_id=queued.id)
        assert second.previous_response_id == queued.id


async def test_a_window_for_a_background_response_is_refused_and_a_hint_is_the_gateways_own(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        gateway.backend.script = (chunk("Hello"), chunk(finish="stop"), usage_chunk())
        with pytest.raises(openai.BadRequestError, match="flex") as refused:
            await client.responses.create(**ASK, background_options={"completion_window": "2h"})
        assert refused.value.param == "background_options.completion_window"
        with pytest.raises(openai.BadRequestError) as malformed:
            await client.responses.create(**ASK, extra_body={"background_options": "2h"})
        assert malformed.value.param == "background_options"
        hint: Any = {"completion_window": "soonest", "continuation_id": "c1"}
        queued = await client.responses.create(**ASK, background_options=hint)
        assert (await ended(client, queued.id)).output_text == "Hello"
        assert "background_options" not in gateway.backend.requests[-1].to_wire()


async def test_a_stream_of_a_background_response_is_resumed_after_any_event(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        gate = asyncio.Event()
        gateway.backend.script = (chunk("Hello"), gate, chunk(" there"), chunk(finish="stop"), usage_chunk())
        stream = await client.responses.create(stream=True, **ASK)
        seen = []
        async for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
        await stream.close()
        assert [event.type for event in seen[:3]] == [
            *("response.created", "response.queued", "response.in_progress"),
        ]
        name = seen[0].response.id
        gate.set()
        resumed = await client.responses.retrieve(name, stream=True, starting_after=seen[-1].sequence_number)
        rest = [event async for event in resumed]
        numbers = [event.sequence_number for event in (*seen, *rest)]
        assert numbers == list(range(len(numbers)))
        assert rest[-1].type == "response.completed"
        assert (rest[-1].response.id, rest[-1].response.output_text) == (name, "Hello there")
        whole = [event async for event in await client.responses.retrieve(name, stream=True)]
        assert [event.type for event in whole] == [event.type for event in (*seen, *rest)]


async def test_a_background_response_is_cancelled_and_its_stream_ends(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        gateway.backend.script = (chunk("Hello"), asyncio.Event())
        queued = await client.responses.create(**ASK)
        await begun(gateway)
        cancelled = await client.responses.cancel(queued.id)
        assert (cancelled.status, cancelled.error) == ("cancelled", None)
        async with asyncio.timeout(5):
            await gateway.backend.closed.wait()
            events = [event async for event in await client.responses.retrieve(queued.id, stream=True)]
        assert str(events[-1].type) == "response.cancelled"
        assert (await client.responses.cancel(queued.id)).status == "cancelled"
        gateway.backend.script = ANSWER
        plain = await client.responses.create(model="parrot", input="Hi", stream=False, store=True)
        with pytest.raises(openai.BadRequestError, match="background"):
            await client.responses.cancel(plain.id)


async def test_a_failure_is_told_in_the_response_and_its_events(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        gateway.backend.script = (chunk("Hel"), WorkerFailed("It died."))
        queued = await client.responses.create(**ASK)
        failed = await ended(client, queued.id)
        assert failed.error is not None
        assert (failed.status, failed.error.code, failed.error.message) == ("failed", "server_error", "It died.")
        events = [event async for event in await client.responses.retrieve(queued.id, stream=True)]
        assert events[-1].type == "response.failed"
        assert [event.sequence_number for event in events] == list(range(len(events)))


async def test_a_response_whose_process_died_has_failed_and_is_not_made_again(
    serve: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK", 0.05)
    async with serve() as gateway, sdk(gateway) as client:
        gateway.backend.script = (chunk("Hello"), asyncio.Event())
        queued = await client.responses.create(**ASK)
        await begun(gateway)
        runner = runtime_of(gateway).runner
        assert runner is not None
        await runner.stop()
        runner.start()
        failed = await ended(client, queued.id)
        assert failed.error is not None
        assert (failed.status, "stopped" in failed.error.message) == ("failed", True)
        assert len(gateway.backend.requests) == 1


async def test_a_background_response_must_be_stored(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(store=False, **ASK)
        assert refused.value.param == "background"
        judge = {"type": "message", "role": "judge", "content": "x"}
        with pytest.raises(openai.BadRequestError, match="role"):
            await client.responses.create(**{**ASK, "input": [judge]})
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await client.responses.create(**{**ASK, "model": "nowhere"})
        storage = runtime_of(gateway).storage
        storage.configure(storage.settings.model_copy(update={"background": 0}))
        with pytest.raises(openai.BadRequestError, match="switched off"):
            await client.responses.create(**ASK)


async def test_a_deleted_background_response_stops(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        gateway.backend.script = (chunk("Hello"), asyncio.Event())
        queued = await client.responses.create(**ASK)
        await begun(gateway)
        await client.responses.delete(queued.id)
        async with asyncio.timeout(5):
            await gateway.backend.closed.wait()
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(queued.id)


async def test_a_background_response_adds_to_its_conversation(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        conversation = await client.conversations.create()
        queued = await client.responses.create(conversation=conversation.id, **ASK)
        assert (await ended(client, queued.id)).status == "completed"
        async with asyncio.timeout(5):
            while len((await client.conversations.items.list(conversation.id)).data) != 2:
                await asyncio.sleep(0.02)
