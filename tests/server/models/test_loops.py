"""Endpoints that lead back to the server that calls them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from catalog.types import Json
from routing.calling.hops import HEADER
from server.processes.run import GatewayServer, uvicorn_config
from server.settings import ServerSettings, Settings
from tests.fakes.openai import FakeOpenAI
from tests.server.models.conftest import OpenShop, Shop

ROW: Json = {"id": "far", "capabilities": ["chat"], "source": {"kind": "upstream", "model": "far"}}
ASKED: Json = {"model": "far", "messages": [{"role": "user", "content": "Hello"}]}


@asynccontextmanager
async def listening(shop: Shop) -> AsyncIterator[str]:
    """The address of a shop behind a real socket."""
    transport: Any = shop.client._transport
    server = GatewayServer(uvicorn_config(transport.app, Settings(server=ServerSettings(port=0))))
    server.config.lifespan = "off"
    task = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(10):
            await server.listening.wait()
        yield server.url
    finally:
        server.should_exit = True
        await task


async def leads(shop: Shop, url: str) -> None:
    row = {**ROW, "endpoint": {"id": "next", "base_url": f"{url}/v1"}}
    assert (await shop.client.post("/v1/models", json=row)).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("servers", [1, 2])
async def test_a_request_that_comes_back_to_its_server_is_refused(
    open_shop: OpenShop, tmp_path: Any, servers: int, stream: bool
) -> None:
    async with (
        open_shop() as here,
        open_shop(data_dir=tmp_path / "other") as there,
        listening(here) as first,
        listening(there) as second,
    ):
        await leads(here, first if servers == 1 else second)
        await leads(there, first)
        async with asyncio.timeout(20):
            answer = await here.client.post("/v1/chat/completions", json={**ASKED, "stream": stream})
        assert answer.status_code in (502, 503)
        assert "leads back" in answer.json()["error"]["message"]


async def test_hops_go_on_to_other_servers_and_nothing_else_does(shop: Shop) -> None:
    ids = [f"roundhouse-{n:016x}" for n in range(20)]
    async with FakeOpenAI(key=None) as fake:
        row = {**ROW, "source": {"kind": "upstream", "model": "fake-chat"}}
        end = {"id": "lan", "base_url": fake.base_url}
        await shop.client.post("/v1/models", json={**row, "endpoint": end})

        async def sent(header: str | None) -> tuple[int, str]:
            headers = {} if header is None else {HEADER: header}
            answer: httpx.Response = await shop.client.post("/v1/chat/completions", json=ASKED, headers=headers)
            return answer.status_code, fake.calls[-1].headers.get(HEADER, "")

        _, own = await sent(None)
        assert own.startswith("roundhouse-")
        assert "," not in own
        assert await sent(f"cloudflare; loops=1, {ids[0]}, {ids[1]}") == (200, f"{ids[0]}, {ids[1]}, {own}")
        assert await sent("cloudflare; loops=1") == (200, own)
        assert (await sent(own))[0] == 503
        assert (await sent(", ".join(ids)))[0] == 503
        assert await sent(None) == (200, own), "the ids of one request are no other's"
