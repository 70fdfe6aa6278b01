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

from routing.accounts.virtual_keys import KeyLimits, NewKey, Rate
from server.app import create_app
from server.assembly import open_runtime
from server.processes.run import GatewayServer, uvicorn_config
from server.runtime import Runtime
from server.settings import Settings
from tests.fakes.openai_realtime import FakeRealtime
from tests.server.realtime.conversing import of_type, types, until

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


async def test_a_keys_limit_cancels_a_response_and_says_why(passing: Open) -> None:
    async with passing() as gateway:
        await gateway.key(admin=True)
        key = await gateway.key(limits=KeyLimits(requests=Rate(minute=2)))
        async with session(gateway, key.secret) as connection:
            gateway.provider.held = asyncio.Event()
            gateway.provider.held.set()
            await connection.response.create()  # the connection was the first request
            assert (await until(connection, "response.done"))[-1].response.status == "completed"
            gateway.provider.held.clear()
            await connection.response.create()
            events = await until(connection, "response.done")
            assert events[-1].response.status == "cancelled"
            (error,) = of_type(events, "error")
            assert error.error.code == "rate_limit_exceeded"


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
            unknown: Any = {"type": "guess"}
            await connection.send(unknown)
            assert (await until(connection, "error"))[-1].error.param == "type"
        assert gateway.provider.received == []
