"""Limits of keys, traces and reports over several gateways: two processes of one machine, and two over Redis."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.test_processes import PAID, both, client_of, eventually, get, serving, settings_for
from tests.fakes.openai import FakeOpenAI
from tests.routing.state.stores import needs_redis_server, redis_server

Sessions = tuple[aiohttp.ClientSession, aiohttp.ClientSession]


@asynccontextmanager
async def two_processes(folder: Path) -> AsyncIterator[tuple[Path, Sessions]]:
    async with FakeOpenAI() as fake, serving(folder, settings_for(fake, folder), "--workers", "2") as server:
        one, other = await both(server)
        async with (
            client_of(server, one, connections=9) as first,
            client_of(server, other, connections=9) as second,
        ):
            yield folder, (first, second)


@asynccontextmanager
async def two_machines(folder: Path) -> AsyncIterator[tuple[Path, Sessions]]:
    async with AsyncExitStack() as stack:
        unix = folder / "redis.sock"
        await stack.enter_async_context(redis_server(unix))
        fake = await stack.enter_async_context(FakeOpenAI())
        sessions = []
        for name in ("here", "there"):
            settings = settings_for(fake, folder / name, state=f'url = "unix://{unix}"')
            server = await stack.enter_async_context(serving(folder / name, settings))
            sessions.append(await stack.enter_async_context(aiohttp.ClientSession(server.url)))
        yield folder / "here", (sessions[0], sessions[1])


Gateways = Callable[[Path], AbstractAsyncContextManager[tuple[Path, Sessions]]]
TWO = pytest.mark.parametrize(
    "gateways", [two_processes, pytest.param(two_machines, marks=needs_redis_server)], ids=["processes", "redis"]
)


async def create_key(folder: Path, *flags: str) -> str:
    command = [sys.executable, "-m", "server.cli", "keys", "create", "a friend", *flags]
    made = await asyncio.to_thread(
        subprocess.run, command, cwd=folder, capture_output=True, text=True, check=True, env=os.environ
    )
    return next(word for word in made.stdout.split() if word.startswith("rh-"))


async def ask(
    session: aiohttp.ClientSession, secret: str, request: dict[str, Any] = PAID
) -> tuple[int, dict[str, Any], str]:
    headers = {"authorization": f"Bearer {secret}"}
    async with session.post("/v1/chat/completions", json=request, headers=headers) as answer:
        return answer.status, await answer.json(), answer.headers.get("x-roundhouse-trace", "")


async def know(sessions: Sessions, secret: str) -> None:
    """Wait until both gateways know the key."""
    for session in sessions:
        async with asyncio.timeout(30):
            while True:
                statuses = []
                for key in (secret, "another"):  # while there is no key at all, any is accepted
                    async with session.get("/v1/models", headers={"x-api-key": key}) as answer:
                        statuses.append(answer.status)
                if statuses == [200, 401]:
                    break
                await asyncio.sleep(0.05)


@TWO
async def test_a_limit_of_five_requests_lets_five_pass_through_two_gateways(
    tmp_path: Path, gateways: Gateways
) -> None:
    async with gateways(tmp_path) as (folder, sessions):
        secret = await create_key(folder, "--requests-per-month", "5")
        await know(sessions, secret)
        answers = await asyncio.gather(*(ask(session, secret) for session in sessions for _ in range(15)))
        statuses = [status for status, _, _ in answers]
        assert (statuses.count(200), statuses.count(429)) == (5, 25)


@TWO
async def test_a_limit_of_tokens_ends_after_the_answer_that_reached_it_through_two_gateways(
    tmp_path: Path, gateways: Gateways
) -> None:
    async with gateways(tmp_path) as (folder, sessions):
        secret = await create_key(folder, "--tokens-per-month", "50")
        await know(sessions, secret)
        used, refused = [0], 0
        for number in range(40):
            status, body, _ = await ask(sessions[number % 2], secret)
            if status == 200:
                assert sum(used) < 50, "this call was admitted after the limit was reached"
                used.append(body["usage"]["total_tokens"])
            else:
                refused += 1
        assert sum(used[:-1]) < 50
        assert refused


@TWO
async def test_a_burst_of_answers_never_passes_a_limit_of_tokens_through_two_gateways(
    tmp_path: Path, gateways: Gateways
) -> None:
    async with gateways(tmp_path) as (folder, sessions):
        secret = await create_key(folder, "--tokens-per-month", "400")
        await know(sessions, secret)
        bounded = {**PAID, "max_tokens": 50}
        answers = await asyncio.gather(*(ask(session, secret, bounded) for session in sessions for _ in range(30)))
        used = [body["usage"]["total_tokens"] for status, body, _ in answers if status == 200]
        assert used
        assert {status for status, _, _ in answers} == {200, 429}
        assert sum(used) <= 400
        status, body, _ = await ask(sessions[0], secret, {**PAID, "max_tokens": 400})
        assert (status, body["error"]["param"]) == (400, "max_tokens")


@TWO
async def test_a_trace_and_a_report_reach_the_gateway_that_served_the_request(
    tmp_path: Path, gateways: Gateways
) -> None:
    async with gateways(tmp_path) as (folder, (first, second)):
        mine, other = await create_key(folder), await create_key(folder)
        for secret in (mine, other):
            await know((first, second), secret)
        for serves, asked in ((first, second), (second, first)):
            _, _, trace = await ask(serves, mine)
            headers = {"authorization": f"Bearer {mine}"}
            async with asked.get(f"/v1/traces/{trace}", headers=headers) as answer:
                assert answer.status == 200
                assert (await answer.json())["id"] == trace
            verdict = {"trace": trace, "score": 0.5}
            async with asked.post("/v1/outcomes", json=verdict, headers=headers) as answer:
                assert answer.status == 200
                assert (await answer.json())["model"] == "paid"
            stranger = {"authorization": f"Bearer {other}"}
            async with asked.get(f"/v1/traces/{trace}", headers=stranger) as answer:
                assert answer.status == 404
            async with asked.post("/v1/outcomes", json=verdict, headers=stranger) as answer:
                assert answer.status == 404
            async with asked.get("/v1/traces/unknown", headers=headers) as answer:
                assert answer.status == 404


async def test_a_cap_that_a_reload_sets_holds_in_every_process(tmp_path: Path) -> None:
    async with FakeOpenAI() as fake:
        settings = settings_for(fake, tmp_path)
        async with serving(tmp_path, settings, "--workers", "2") as server:
            one, other = await both(server)
            async with client_of(server, one) as first, client_of(server, other) as second:
                for session in (first, second):
                    assert (await ask(session, "nobody"))[0] == 200
                (tmp_path / "roundhouse.toml").write_text(f"{settings}\n[spend.caps]\ntotal = 0.01\n")
                os.kill(server.process.pid, signal.SIGHUP)
                for session in (first, second):

                    async def capped(session: aiohttp.ClientSession = session) -> bool:
                        status, body, _ = await ask(session, "nobody")
                        return status == 429 and "total spending cap" in body["error"]["message"]

                    assert await eventually(capped, within=30)
                    shown = (await get(session, "/v1/admin/report"))["settings"]
                    assert shown["spend"]["caps"]["total"] == 0.01
