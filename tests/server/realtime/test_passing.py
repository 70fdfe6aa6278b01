"""Sessions that a provider has: events pass both ways, and each response counts as a request of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection

from routing.accounts.caps import Caps
from routing.accounts.virtual_keys import KeyLimits, NewKey, Rate
from server.app import create_app
from server.assembly import open_runtime
from server.processes.run import GatewayServer, uvicorn_config
from server.runtime import Runtime
from server.settings import Settings
from tests.fakes.openai_realtime import FakeRealtime
from tests.server.realtime.conversing import types, until

PROVIDER_KEY = "sk-of-the-provider"
ROW: dict[str, Any] = {
    "id": "cloud/voice",
    "aliases": ["gpt-realtime"],
    "capabilities": ["realtime"],
    "source": {"kind": "upstream", "endpoint": "cloud", "model": "gpt-realtime"},
    "price": {"input": 4, "output": 16, "audio_input": 32, "audio_output": 64},
}


@dataclass
class Passing:
    """A whole gateway before a fake provider."""

    url: str
    runtime: Runtime
    provider: FakeRealtime
    in_flight: Any

    async def key(self, **options: Any) -> NewKey:
        assert self.runtime.keys is not None
        return await self.runtime.keys.create("web", **options)


Open = Callable[..., AbstractAsyncContextManager[Passing]]


@pytest.fixture
def passing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    monkeypatch.setenv("CLOUD_KEY", PROVIDER_KEY)

    @asynccontextmanager
    async def opened(**overrides: Any) -> AsyncIterator[Passing]:
        async with FakeRealtime(key=PROVIDER_KEY) as provider:
            endpoint = {
                "id": "cloud",
                "protocol": "openai",
                "base_url": provider.base_url,
                "key_env": ["CLOUD_KEY"],
            }
            settings = Settings.model_validate(
                {
                    "model": (ROW,),
                    "endpoint": (endpoint,),
                    "data_dir": tmp_path / "data",
                    "server": {"port": 0},
                    **overrides,
                }
            )
            app = create_app(settings, open_runtime=open_runtime)
            async with app.router.lifespan_context(app):
                running = GatewayServer(uvicorn_config(app, settings))
                task = asyncio.create_task(running.serve())
                try:
                    await asyncio.wait_for(running.listening.wait(), 10)
                    services = app.state.services
                    yield Passing(running.url, services.runtime, provider, services.in_flight)
                finally:
                    running.should_exit = True
                    await task

    return opened


@asynccontextmanager
async def session(
    gateway: Passing, key: str = "none", model: str = "cloud/voice"
) -> AsyncIterator[AsyncRealtimeConnection]:
    async with (
        AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0) as client,
        client.realtime.connect(model=model) as connection,
    ):
        yield connection


async def test_events_pass_both_ways_with_the_providers_key_and_name(passing: Open) -> None:
    async with passing() as gateway, session(gateway, model="gpt-realtime") as connection:
        created = await connection.recv()
        assert created.type == "session.created"
        told = created.session.model_extra or {}
        assert told["roundhouse"]["model"] == "cloud/voice"
        assert gateway.provider.queries == [{"model": "gpt-realtime"}]
        update: Any = {"type": "realtime", "model": "cloud/voice", "instructions": "Be brief."}
        await connection.session.update(session=update)
        await until(connection, "session.updated")
        assert gateway.provider.received == [
            {"type": "session.update", "session": {"type": "realtime", "instructions": "Be brief."}}
        ]
        await connection.response.create()
        events = await until(connection, "response.done")
        assert types(events) == [
            "response.created",
            "response.output_item.added",
            "conversation.item.added",
            "response.output_audio_transcript.delta",
            "response.output_audio.delta",
            "response.done",
        ]


async def test_a_response_costs_what_its_sound_and_text_cost(passing: Open) -> None:
    async with passing() as gateway:
        await gateway.key(admin=True)
        key = await gateway.key()
        async with session(gateway, key.secret) as connection:
            for _ in range(2):
                await connection.response.create()
                await until(connection, "response.done")
            async with asyncio.timeout(5):
                while gateway.in_flight.works:
                    await asyncio.sleep(0.01)
        (row,) = await gateway.runtime.spend.usage("2000-01-01", "2100-01-01")
        assert (row.key, row.model, row.calls) == (key.info.id, "cloud/voice", 3)
        # 50 tokens at $4 a million, 150 at $32, 20 at $16, 80 at $64; and the connection costs nothing
        assert row.cost == 2 * (50 * 4 + 150 * 32 + 20 * 16 + 80 * 64) * 1000  # nano-dollars


async def usage_of(gateway: Passing) -> Any:
    """The usage of the one model and key, once every response is booked."""
    async with asyncio.timeout(5):
        while gateway.in_flight.works:
            await asyncio.sleep(0.01)
    (row,) = await gateway.runtime.spend.usage("2000-01-01", "2100-01-01")
    return row


async def test_a_response_that_a_limit_refuses_is_never_asked_for(passing: Open) -> None:
    async with passing() as gateway:
        await gateway.key(admin=True)
        key = await gateway.key(limits=KeyLimits(requests=Rate(minute=1)))
        async with session(gateway, key.secret) as connection:  # which is no request itself
            await connection.response.create()
            assert (await until(connection, "response.done"))[-1].response.status == "completed"
            await connection.response.create(event_id="mine")
            error = (await until(connection, "error"))[-1].error
            assert (error.code, error.event_id) == ("rate_limit_exceeded", "mine")
        assert [event["type"] for event in gateway.provider.received] == ["response.create"]


@pytest.mark.parametrize("too_late", [False, True], ids=["cancelled in time", "ended before it was cancelled"])
@pytest.mark.parametrize(
    "limits",
    [KeyLimits(requests=Rate(minute=1)), KeyLimits(spend=Caps(day=0.07))],
    ids=["requests", "spend"],
)
async def test_a_response_of_the_providers_own_accord_that_a_limit_refuses_is_withheld_and_booked(
    passing: Open, limits: KeyLimits, too_late: bool
) -> None:
    async with passing() as gateway:
        await gateway.key(admin=True)
        key = await gateway.key(limits=limits)
        async with session(gateway, key.secret) as connection:
            gateway.provider.answers_turns, gateway.provider.too_late = True, too_late
            await connection.input_audio_buffer.commit()
            await until(connection, "response.done")
            if not too_late:
                gateway.provider.held = asyncio.Event()
            await connection.input_audio_buffer.commit()
            events = await until(connection, "response.done")
            assert types(events) == ["input_audio_buffer.committed", "response.created", "error", "response.done"]
            done = events[-1].response
            assert (done.status, done.output, done.usage.total_tokens) == ("failed", [], 300)
            assert (row := await usage_of(gateway)).input + row.output == 600
            assert row.cost == 2 * (50 * 4 + 150 * 32 + 20 * 16 + 80 * 64) * 1000
            # Its words are not kept at the provider, and no more sound is given to it.
            await connection.input_audio_buffer.append(audio="AAAA")
            await connection.input_audio_buffer.commit()
            assert (await until(connection, "error"))[-1].error.code == events[2].error.code
        sent = [event["type"] for event in gateway.provider.received]
        assert sent[-3:] == ["input_audio_buffer.commit", "response.cancel", "conversation.item.delete"]


async def test_tokens_of_a_refused_response_count_against_the_keys_limit(passing: Open) -> None:
    async with passing() as gateway:
        await gateway.key(admin=True)
        key = await gateway.key(limits=KeyLimits(requests=Rate(minute=1), tokens=Rate(day=650)))
        async with session(gateway, key.secret) as connection:
            gateway.provider.answers_turns = gateway.provider.too_late = True
            for _ in range(2):
                await connection.input_audio_buffer.commit()
                await until(connection, "response.done")
        counted = await gateway.runtime.spend._store.counts(f"rate/{key.info.id}/tokens/")
        assert list(counted.values()) == [600]


@pytest.mark.parametrize("ends", ["client", "provider"])
async def test_a_response_that_is_cut_is_booked_by_what_came_of_it(passing: Open, ends: str) -> None:
    async with passing() as gateway:
        await gateway.key(admin=True)
        key = await gateway.key(limits=KeyLimits(tokens=Rate(day=100_000)))
        async with session(gateway, key.secret) as connection:
            gateway.provider.held = asyncio.Event()
            gateway.provider.sounds = 20
            await connection.conversation.item.create(item=_said("How are you today, my dear old friend?"))
            await connection.response.create()
            for _ in range(20):
                await until(connection, "response.output_audio.delta")
            if ends == "provider":
                gateway.provider.dies = True
                await connection.send({"type": "response.cancel"})
                assert (await until(connection, "error"))[-1].error.code == "stream_broken"
        row = await usage_of(gateway)
        assert row.input >= 9  # the words
        assert row.output >= 20  # a second of sound is twenty tokens
        assert row.estimated >= 20 * 64 * 1000


async def test_a_response_that_the_provider_refuses_costs_nothing(passing: Open) -> None:
    async with passing() as gateway:
        await gateway.key(admin=True)
        key = await gateway.key()
        async with session(gateway, key.secret) as connection:
            gateway.provider.busy = True
            await connection.response.create(event_id="mine")
            assert (await until(connection, "error"))[-1].error.event_id == "mine"
            row = await usage_of(gateway)
            assert (row.output, row.cost, row.estimated) == (0, 0, 0)


async def test_a_constraint_that_the_model_does_not_meet_is_refused_and_goes_to_no_provider(passing: Open) -> None:
    async with passing() as gateway, session(gateway) as connection:
        for routing in ({"local_only": True}, {"exclude": ["cloud/voice"]}):
            await connection.send({"type": "session.update", "session": {"routing": routing}})  # type: ignore[arg-type]
            assert (await until(connection, "error"))[-1].error.code == "no_candidate"
        await connection.send(
            {"type": "session.update", "session": {"routing": {"max_cost": 0.01}, "strict": True}}  # type: ignore[arg-type]
        )
        await until(connection, "session.updated")
        assert gateway.provider.received == [{"type": "session.update", "session": {}}]
        await connection.response.create()
        assert (await until(connection, "error"))[-1].error.param == "routing.max_cost"
        await connection.response.create(response={"max_output_tokens": 10})
        await until(connection, "response.done")


async def test_a_refused_key_of_the_provider_is_told(passing: Open) -> None:
    async with passing() as gateway:
        gateway.provider.key = "sk-another"
        async with session(gateway) as connection:
            assert (await until(connection, "error"))[-1].error.code == "upstream_rejected_key"


async def test_a_session_that_the_provider_refuses_is_told(passing: Open) -> None:
    async with passing() as gateway:
        gateway.provider.refuses = True
        async with session(gateway) as connection:
            error = (await until(connection, "error"))[-1].error
            assert "No such model" in error.message


async def test_a_provider_that_breaks_off_ends_the_session_with_an_error(passing: Open) -> None:
    async with passing() as gateway, session(gateway) as connection:
        await until(connection, "session.created")
        gateway.provider.dies = True
        await connection.response.create()
        assert (await until(connection, "error"))[-1].error.code == "stream_broken"


async def test_a_client_that_leaves_closes_the_providers_session(passing: Open) -> None:
    async with passing() as gateway:
        async with session(gateway) as connection:
            await until(connection, "session.created")
        await gateway.provider.calls[0].left()
        async with asyncio.timeout(5):
            while gateway.in_flight.count:
                await asyncio.sleep(0.01)


async def test_objects_of_the_providers_account_are_refused(passing: Open) -> None:
    async with passing() as gateway:
        await gateway.key(admin=True)
        key = await gateway.key()
        async with session(gateway, key.secret) as connection:
            await until(connection, "session.created")
            stored: Any = {"type": "session.update", "session": {"prompt": {"id": "pmpt_1"}}}
            await connection.send(stored)
            error = (await until(connection, "error"))[-1].error
            assert "pmpt_1" in error.message
            picture = {"type": "input_image", "file_id": "file_1"}
            await connection.send({"type": "conversation.item.create", "item": _message(picture)})
            assert "file_1" in (await until(connection, "error"))[-1].error.message
            tool = {"type": "mcp", "server_label": "x", "server_url": "http://169.254.169.254/"}
            inside: Any = {"type": "session.update", "session": {"tools": [tool]}}
            await connection.send(inside)
            assert "private network" in (await until(connection, "error"))[-1].error.message
            other: Any = {"type": "session.update", "session": {"model": "another"}}
            await connection.send(other)
            assert (await until(connection, "error"))[-1].error.param == "session.model"
            unknown: Any = {"type": "guess"}
            await connection.send(unknown)
            assert (await until(connection, "error"))[-1].error.param == "type"
        assert gateway.provider.received == []


def _message(part: Any) -> Any:
    return {"type": "message", "role": "user", "content": [part]}


def _said(text: str) -> Any:
    return _message({"type": "input_text", "text": text})
