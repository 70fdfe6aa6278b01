"""Requests that a signer authenticates, where it knows the final address, headers and body."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from yarl import URL

from backends.base import Timeouts, Upstream
from backends.http import HttpClient
from catalog.errors import FirstByteTimeout, ModelUnavailable
from tests.fakes.openai import FakeOpenAI
from tests.loop_time import virtual_time

CHAT = {"model": "fake-chat", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
async def fake() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    async with HttpClient() as client:
        yield client


def upstream(fake: FakeOpenAI, **fields: Any) -> Upstream:
    return Upstream(
        "s", "openai", fake.base_url, "fake-chat", headers={"X-Own": "1"}, query={"a": "1 2"}, **fields
    )


async def test_a_signer_sees_what_is_sent_and_its_headers_are_sent(fake: FakeOpenAI, http: HttpClient) -> None:
    seen: list[Any] = []

    async def sign(
        target: Upstream, method: str, url: URL, headers: Mapping[str, str], body: bytes | None
    ) -> Mapping[str, str]:
        seen.append((target.endpoint, method, url.raw_path_qs, dict(headers), body))
        return {"authorization": "Signed"}

    signed = http.signed(sign)
    await signed.post_json(upstream(fake), "/chat/completions", CHAT, headers={"x-more": "2"})
    ((endpoint, method, path, headers, body),) = seen
    assert (endpoint, method, path) == ("s", "POST", "/v1/chat/completions?a=1+2")
    assert headers["x-own"] == "1"
    assert headers["x-more"] == "2"
    assert headers["content-type"] == "application/json"
    assert b'"fake-chat"' in body
    assert fake.calls[0].headers["authorization"] == "Signed"
    await http.post_json(upstream(fake), "/chat/completions", CHAT)
    assert "authorization" not in fake.calls[1].headers, "the client that it was made of does not sign"
    assert fake.calls[0].peer == fake.calls[1].peer, "they share their connections"


async def test_an_error_of_the_signer_is_the_calls_and_nothing_is_sent(fake: FakeOpenAI, http: HttpClient) -> None:
    async def sign(*_: Any) -> Mapping[str, str]:
        raise ModelUnavailable("no credentials")

    with pytest.raises(ModelUnavailable):
        await http.signed(sign).post_json(upstream(fake), "/chat/completions", CHAT)
    assert fake.calls == []
    assert all(pool.active == 0 for pool in http._pools._pools.values())


async def test_a_signer_that_waits_is_bounded_by_the_time_for_the_first_byte(
    fake: FakeOpenAI, http: HttpClient
) -> None:
    async def sign(*_: Any) -> Mapping[str, str]:
        await asyncio.Event().wait()
        return {}

    with virtual_time(), pytest.raises(FirstByteTimeout):
        await http.signed(sign).post_json(
            upstream(fake, timeouts=Timeouts(first_byte=3)), "/chat/completions", CHAT
        )
    assert fake.calls == []
