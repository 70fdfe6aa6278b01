"""Several gateway processes share workers, spend, breakers, keys and metrics, and end together."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.e2e.serving import Served, free_port, served
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault

CHAT = "smollm2-135m-instruct"
LONG = [{"role": "user", "content": "Count from one to a thousand, one number per line."}]
PAID = {"model": "paid", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
CENT_PER_ANSWER = "price = { input = 0, output = 2000 }"
"""Dollars per million tokens: five tokens cost a cent."""


def settings_for(fake: FakeOpenAI, folder: Path, **sections: str) -> str:
    """A settings file whose model ``paid`` is the fake's, with a data folder of its own."""
    return "\n".join(
        [
            f'data_dir = "{folder / "data"}"',
            *(f"[{name}]\n{body}" for name, body in sections.items()),
            f'[[endpoint]]\nid = "fake"\nbase_url = "{fake.base_url}"',
            '[[model]]\nid = "paid"\ncapabilities = ["chat"]',
            f'source = {{ kind = "upstream", endpoint = "fake", model = "fake-chat" }}\n{CENT_PER_ANSWER}',
        ]
    )


@asynccontextmanager
async def serving(folder: Path, settings: str, *arguments: str) -> AsyncIterator[Served]:
    """Run a server with these settings; starting it does not block the event loop, which serves the fakes."""
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240 -- a folder of the test's own
    (folder / "roundhouse.toml").write_text(settings)
    server = served(folder, *arguments)
    running = await asyncio.to_thread(server.__enter__)
    try:
        yield running
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


def gateways(server: Served) -> list[int]:
    """Process ids of the gateways."""
    found = []
    for child in psutil.Process(server.process.pid).children():
        with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            if "server.processes.gateway_process" in child.cmdline():
                found.append(child.pid)
    return found


async def eventually(check: Callable[[], Any], *, within: float) -> bool:
    """Whether a condition, which may be a coroutine function, became true within so many seconds."""
    end = asyncio.get_running_loop().time() + within
    while asyncio.get_running_loop().time() < end:
        met = check()
        if await met if asyncio.iscoroutine(met) else met:
            return True
        await asyncio.sleep(0.02)
    return False


def running(process: psutil.Process) -> bool:
    """Whether a process runs; a zombie does not."""
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


async def both(server: Served) -> tuple[int, int]:
    """Process ids of two gateways, once both serve."""

    async def serve_two() -> bool:
        return len(gateways(server)) == 2 == await metric(server, "roundhouse_gateway_processes")

    assert await eventually(serve_two, within=60)
    one, other = gateways(server)
    return one, other


@contextmanager
def alone(server: Served, pid: int) -> Iterator[None]:
    """Suspend the other gateways during the block, so that this one accepts every new connection."""
    others = [other for other in gateways(server) if other != pid]
    for other in others:
        os.kill(other, signal.SIGSTOP)
    try:
        yield
    finally:
        for other in others:
            os.kill(other, signal.SIGCONT)


@asynccontextmanager
async def client_of(server: Served, pid: int, *, connections: int = 1) -> AsyncIterator[aiohttp.ClientSession]:
    """A client whose kept-alive connections all go to one gateway process."""
    connector = aiohttp.TCPConnector(limit=connections, keepalive_timeout=60)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(server.url, connector=connector, timeout=timeout) as session:

        async def connect() -> None:
            async with session.get("/health") as answer:
                assert answer.status == 200

        with alone(server, pid):
            await asyncio.gather(*(connect() for _ in range(connections)))
        yield session


async def ask(session: aiohttp.ClientSession, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    async with session.post("/v1/chat/completions", json=body) as answer:
        return answer.status, await answer.json()


async def get(session: aiohttp.ClientSession, path: str) -> Any:
    async with session.get(path) as answer:
        return await answer.json()


async def metric(server: Served, name: str, **labels: str) -> float:
    """The sum of a metric's series with these labels, as one scrape gives it."""
    async with aiohttp.ClientSession(server.url) as session, session.get("/metrics") as answer:
        text = await answer.text()
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    lines = [line for line in text.splitlines() if re.match(rf"{name}(?:{{| )", line)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in wanted))


async def test_a_cap_of_a_dollar_holds_over_two_processes_and_their_sums_are_one(tmp_path: Path) -> None:
    async with FakeOpenAI() as fake:
        settings = settings_for(fake, tmp_path, **{"spend.caps": "day = 1.0"})
        async with serving(tmp_path, settings, "--workers", "2") as server:
            one, other = await both(server)
            async with (
                client_of(server, one, connections=100) as first,
                client_of(server, other, connections=100) as second,
            ):
                answers = await asyncio.gather(*(ask(s, PAID) for s in (first, second) for _ in range(100)))
                paid = [body for status, body in answers if status == 200]
                refused = [body for status, body in answers if status != 200]
                assert all(body["error"]["code"] == "insufficient_quota" for body in refused)
                assert len(paid) <= 100, "a cent each: more than a dollar was spent"
                assert len(paid) >= 95, "there was money left"
                assert len(fake.calls) == len(paid)
                for session in (first, second):
                    usage = await get(session, "/v1/usage?by=model")
                    assert sum(Decimal(row["cost"]) for row in usage["data"]) == len(paid) * Decimal("0.01")

            assert await metric(server, "roundhouse_attempts_total", result="success") == len(paid)
            assert await metric(server, "roundhouse_cost_dollars_total") == pytest.approx(len(paid) / 100)
            chats = {"route": "/v1/chat/completions"}
            assert await metric(server, "roundhouse_requests_total", **chats) == 200

            # The counts of a gateway stay in the sum after it has died and been replaced.
            os.kill(one, signal.SIGKILL)
            assert await eventually(lambda: one not in gateways(server), within=30)
            assert await both(server) != (one, other)
            assert await metric(server, "roundhouse_requests_total", **chats) == 200
            assert await metric(server, "roundhouse_gateway_restarts_total") == 1


async def test_an_open_breaker_and_a_new_key_are_known_in_the_other_process(tmp_path: Path) -> None:
    async with FakeOpenAI() as fake:
        settings = settings_for(fake, tmp_path, breakers="open_seconds = 60")
        async with serving(tmp_path, settings, "--workers", "2") as server:
            one, other = await both(server)
            fake.fault = Fault(status=500)
            async with client_of(server, one) as first, client_of(server, other) as second:
                codes = [(await ask(first, PAID))[1]["error"]["code"] for _ in range(6)]
                assert codes == ["upstream_error"] * 5 + ["model_temporarily_unavailable"]
                assert len(fake.calls) == 5

                async def knows() -> bool:
                    async with second.post("/v1/route", json=PAID) as answer:
                        plan = await answer.json()
                    return [row["code"] for row in plan["excluded"]] == ["breaker_open"]

                assert await eventually(knows, within=30)
                status, body = await ask(second, PAID)
                assert (status, body["error"]["code"]) == (503, "model_temporarily_unavailable")
                assert len(fake.calls) == 5, "the other process need not learn it the hard way"

            command = [sys.executable, "-m", "server.cli", "keys", "create", "a friend"]
            made = await asyncio.to_thread(
                subprocess.run, command, cwd=tmp_path, capture_output=True, text=True, check=True
            )
            secret = next(word for word in made.stdout.split() if word.startswith("rh-"))
            for pid in (one, other):
                async with client_of(server, pid) as session:

                    async def closed(session: aiohttp.ClientSession = session) -> bool:
                        async with session.get("/v1/models") as answer:
                            return answer.status == 401

                    assert await eventually(closed, within=30)
                    headers = {"authorization": f"Bearer {secret}"}
                    async with session.get("/v1/models", headers=headers) as answer:
                        assert answer.status == 200


async def test_settings_are_read_again_by_every_process_and_streams_drain_in_all(tmp_path: Path) -> None:
    async with FakeOpenAI() as fake:
        fake.reply = "word " * 30
        settings = settings_for(fake, tmp_path)
        async with serving(tmp_path, settings, "--workers", "2") as server, AsyncExitStack() as stack:
            pids = await both(server)
            sessions = [await stack.enter_async_context(client_of(server, pid, connections=5)) for pid in pids]
            (tmp_path / "roundhouse.toml").write_text(settings.replace('id = "paid"', 'id = "renamed"'))
            os.kill(server.process.pid, signal.SIGHUP)
            for session in sessions:

                async def renamed(session: aiohttp.ClientSession = session) -> bool:
                    rows = (await get(session, "/v1/models"))["data"]
                    return {"renamed"} == {row["id"] for row in rows} & {"paid", "renamed"}

                assert await eventually(renamed, within=30)

            fake.fault = Fault(hold_after=2)
            body = {**PAID, "model": "renamed", "stream": True, "max_tokens": 30}
            started = asyncio.Semaphore(0)

            async def stream(session: aiohttp.ClientSession) -> bytes:
                async with session.post("/v1/chat/completions", json=body) as answer:
                    first = await answer.content.readany()
                    started.release()
                    return first + await answer.read()

            streams = [asyncio.create_task(stream(session)) for session in sessions for _ in range(4)]
            for _ in streams:
                await started.acquire()
            os.kill(server.process.pid, signal.SIGTERM)
            for session in sessions:

                async def refused(session: aiohttp.ClientSession = session) -> bool:
                    async with session.get("/ready") as answer:
                        return answer.status == 503 and "Retry-After" in answer.headers

                assert await eventually(refused, within=30)
            fake.go.set()
            for text in await asyncio.gather(*streams):
                assert text.count(b"word") == 30
                assert text.rstrip().endswith(b"data: [DONE]")
            assert await asyncio.to_thread(server.process.wait, 20) == 0
            assert not any(psutil.pid_exists(pid) for pid in pids)


async def test_workers_are_shared_and_a_killed_gateway_gives_its_leases_back_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path, "[workers]\nslots = 1\n", "--workers", "2") as server:
        one, other = await both(server)
        body = {"model": CHAT, "messages": LONG, "stream": True, "max_tokens": 2000, "ignore_eos": True}
        async with client_of(server, one) as first, client_of(server, other, connections=2) as second:

            async def workers(session: aiohttp.ClientSession) -> list[dict[str, Any]]:
                rows: list[dict[str, Any]] = (await get(session, "/v1/admin/workers"))["workers"]
                return rows

            async with first.post("/v1/chat/completions", json=body) as answer:
                assert b"data:" in await answer.content.readany()
                waiting = asyncio.create_task(ask(second, {"model": CHAT, "messages": LONG, "max_tokens": 3}))

                async def queued() -> bool:
                    return [(w["busy"], w["queued"]) for w in await workers(second)] == [(1, 1)]

                assert await eventually(queued, within=30)
                [worker] = await workers(second)
                os.kill(one, signal.SIGKILL)
                async with asyncio.timeout(60):
                    status, said = await waiting
                assert status == 200
                assert said["choices"][0]["message"]["content"]
            [same] = await workers(second)
            assert same["pid"] == worker["pid"], "the worker outlives the gateway that used it"
            assert await metric(server, "roundhouse_worker_state", state="ready") == 1
            async with second.post(f"/v1/models/{CHAT}/unload") as answer:
                assert answer.status == 200
            assert [w["state"] for w in await workers(second)] == ["stopped"]
            assert await metric(server, "roundhouse_worker_events_total", event="unloaded") == 1


async def test_a_gateway_that_does_not_answer_is_replaced_and_the_new_settings_are_its_own(tmp_path: Path) -> None:
    async with FakeOpenAI() as fake:
        settings = settings_for(fake, tmp_path, server="liveness = 2")
        async with serving(tmp_path, settings, "--workers", "2") as server:
            hung, other = await both(server)
            os.kill(hung, signal.SIGSTOP)
            (tmp_path / "roundhouse.toml").write_text(settings.replace('id = "paid"', 'id = "renamed"'))
            server.process.send_signal(signal.SIGHUP)
            assert await eventually(lambda: not psutil.pid_exists(hung), within=30)
            _, new = sorted(await both(server), key=lambda pid: pid != other)
            assert hung not in gateways(server)
            assert "did not answer for 2 seconds" in server.log.read_text()
            for pid in (other, new):
                async with client_of(server, pid) as client:

                    async def renamed(client: aiohttp.ClientSession = client) -> bool:
                        return (await ask(client, PAID | {"model": "renamed"}))[0] == 200

                    assert await eventually(renamed, within=10)


async def test_a_pause_of_all_processes_is_no_reason_to_replace_one(tmp_path: Path) -> None:
    async with FakeOpenAI() as fake:
        settings = settings_for(fake, tmp_path, server="liveness = 3")
        async with serving(tmp_path, settings, "--workers", "2") as server:
            before = set(await both(server))
            everyone = (server.process.pid, *before)
            for pid in everyone:
                os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(6)  # twice the limit
            for pid in everyone:
                os.kill(pid, signal.SIGCONT)
            for _ in range(20):
                assert await metric(server, "roundhouse_gateway_restarts_total") == 0
                await asyncio.sleep(0.1)
            assert set(gateways(server)) == before


async def test_kill_9_of_the_parent_leaves_neither_gateway_nor_worker(tmp_path: Path) -> None:
    async with serving(tmp_path, "", "--workers", "2") as server:
        await both(server)
        async with aiohttp.ClientSession(server.url) as session:
            assert (await ask(session, {"model": CHAT, "messages": LONG, "max_tokens": 2}))[0] == 200
        family = psutil.Process(server.process.pid).children(recursive=True)
        assert len(family) >= 3
        server.process.kill()
        await asyncio.to_thread(server.process.wait, 5)
        assert await eventually(lambda: not any(running(child) for child in family), within=30)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ('[[model]]\nid = "x"\nsource = { kind = "nothing" }', "Correct it in roundhouse.toml."),
        ('[state]\nurl = "redis://127.0.0.1:1"', "Redis server at 127.0.0.1:1 does not answer"),
        ('[state]\nurl = "http://127.0.0.1:1"', "begins with redis://"),
        ('[state]\nurl = "redis://:secret@127.0.0.1"', "url_env"),
    ],
    ids=["row", "redis-away", "not-redis", "password"],
)
def test_what_makes_it_impossible_to_start_is_said_once(tmp_path: Path, settings: str, says: str) -> None:
    (tmp_path / "roundhouse.toml").write_text(f'data_dir = "{tmp_path}"\n{settings}\n')
    command = [sys.executable, "-m", "server.cli", "serve", "--workers", "2", "--port", str(free_port())]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    [line] = [line for line in ended.stderr.splitlines() if line.startswith("roundhouse:")]
    assert says in line
    assert "secret" not in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
async def test_gateways_with_data_folders_of_their_own_share_a_cap_in_redis(tmp_path: Path) -> None:
    """The two gateways share only Redis and the provider, as on two machines."""
    unix = tmp_path / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(unix), "--save", "", "--dir", str(tmp_path)]
    redis = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    try:
        assert await eventually(unix.exists, within=30)
        async with FakeOpenAI() as fake:
            sections = {"spend.caps": "day = 1.0", "state": f'url = "unix://{unix}"'}
            here, there = tmp_path / "here", tmp_path / "there"
            async with (
                serving(here, settings_for(fake, here, **sections)) as one,
                serving(there, settings_for(fake, there, **sections)) as other,
                aiohttp.ClientSession(one.url) as first,
                aiohttp.ClientSession(other.url) as second,
            ):
                answers = await asyncio.gather(*(ask(s, PAID) for s in (first, second) for _ in range(100)))
                paid = sum(status == 200 for status, _ in answers)
                assert {status for status, _ in answers} <= {200, 429}
                assert 95 <= paid <= 100
                for session in (first, second):
                    usage = await get(session, "/v1/usage?by=model")
                    assert sum(Decimal(row["cost"]) for row in usage["data"]) == paid * Decimal("0.01")
            assert not (here / "data" / "state.sqlite3").exists()
    finally:
        redis.terminate()
        await redis.wait()
