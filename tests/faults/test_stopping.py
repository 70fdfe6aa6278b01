"""Row 3: a stopping gateway completes the requests it has begun; a reload of the settings drops none."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from tests.faults.figures import Figures
from tests.faults.serving import Gateway, Told, ask, chat, client, serving, soon, worker_row

STREAMS = 50


async def streams(
    gateway: Gateway, session: aiohttp.ClientSession, **switches: object
) -> list[asyncio.Task[Told]]:
    """Start the row's number of streams and wait for the first token of each."""
    began = 0
    all_began = asyncio.Event()

    def on_event(events: int) -> None:
        nonlocal began
        began += events == 1
        if began == STREAMS:
            all_began.set()

    tasks = [
        asyncio.create_task(ask(session, chat("m", stream=True, routing=None, **switches), on_event=on_event))
        for _ in range(STREAMS)
    ]
    await asyncio.wait_for(all_began.wait(), 20)
    return tasks


async def until_not_ready(gateway: Gateway, session: aiohttp.ClientSession, since: float) -> float:
    """Seconds from ``since`` until the first readiness check was sent that got a 503."""
    while time.monotonic() - since < 5:
        asked = time.monotonic()
        async with session.get("/ready") as response:
            if response.status == 503:
                return asked - since
        await asyncio.sleep(0.005)
    raise AssertionError("it stayed ready")


def none_left(children: list[psutil.Process]) -> bool:
    return not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


async def test_a_drain_within_its_limit_truncates_no_stream(tmp_path: Path, figures: Figures) -> None:
    tokens = 60
    row = worker_row("m", tmp_path, slots=STREAMS)
    with serving(tmp_path, server={"drain": 20}, model=[row]) as gateway:
        children = psutil.Process(gateway.pid).children(recursive=True)
        async with client(gateway) as session:
            tasks = await streams(gateway, session, tokens=tokens, interval=0.05, text="{i} ")
            children = psutil.Process(gateway.pid).children(recursive=True)
            told = gateway.signal(signal.SIGTERM)
            unready = await until_not_ready(gateway, session, told)
            refused = await ask(session, chat("m"))
            answers = await asyncio.gather(*tasks)
        await soon(lambda: gateway.process.poll() is not None, within=10)
        stopped = time.monotonic()
    assert refused.status == 503
    assert refused.error is not None
    assert refused.error["code"] == "draining"
    assert int(refused.headers["retry-after"]) >= 1
    whole = "".join(f"{number} " for number in range(tokens))
    complete = sum(answer.whole and answer.text == whole for answer in answers)
    assert gateway.process.returncode == 0
    assert children
    assert none_left(children)
    last = max(answer.ended for answer in answers)
    figures.at_least(3, "SIGTERM with 50 streams: complete within the drain limit", complete, STREAMS)
    figures.at_most(3, "SIGTERM: until readiness says 503", 1000 * unready, 100, "ms")
    figures.at_most(3, "SIGTERM: from the last stream's end to the exit", stopped - last, 5, "s")


async def test_past_the_drain_limit_every_stream_gets_an_error_event(tmp_path: Path, figures: Figures) -> None:
    limit = 1.0
    row = worker_row("m", tmp_path, slots=STREAMS)
    with serving(tmp_path, server={"drain": limit}, model=[row]) as gateway:
        async with client(gateway) as session:
            tasks = await streams(gateway, session, tokens=100_000, interval=0.1)
            children = psutil.Process(gateway.pid).children(recursive=True)
            told = gateway.signal(signal.SIGTERM)
            answers = await asyncio.gather(*tasks)
        await soon(lambda: gateway.process.poll() is not None, within=15)
        stopped = time.monotonic()
    errors = [answer.error for answer in answers if answer.error is not None and not answer.done]
    assert {error["code"] for error in errors} == {"draining"}
    assert none_left(children)
    assert min(answer.ended for answer in answers) - told >= limit
    figures.at_least(3, "past the drain limit: streams that got an error event", len(errors), STREAMS)
    figures.at_most(3, "past the drain limit of 1 s: until the exit", stopped - told, limit + 5, "s")


async def test_reloaded_settings_hold_at_once_and_drop_nothing(tmp_path: Path, figures: Figures) -> None:
    row = worker_row("m", tmp_path, slots=STREAMS)
    environment = {"FIRST_KEYS": "first-key", "SECOND_KEYS": "second-key", "ADMIN": "admin-key"}
    first, second = {"authorization": "Bearer first-key"}, {"authorization": "Bearer second-key"}
    settings: dict[str, Any] = {"model": [row], "api_keys_env": "FIRST_KEYS", "admin_keys_env": "ADMIN"}
    with serving(tmp_path, environment=environment, **settings) as gateway:
        async with client(gateway) as session:
            assert (await ask(session, chat("m"), headers=second)).status == 401
            assert (await ask(session, chat("new"), headers=first)).status == 404
            async with client(gateway, **first) as admitted:
                tasks = await streams(gateway, admitted, tokens=60, interval=0.05)
                gateway.change(
                    model=[row, worker_row("new", tmp_path)],
                    api_keys_env="SECOND_KEYS",
                    server={"port": 0, "limits": {"concurrency": STREAMS + 1}},
                )
                gateway.signal(signal.SIGHUP)
                await soon(lambda: gateway.log("settings reloaded"), within=5)
                assert (await ask(session, chat("m"), headers=first)).status == 401
                slow = asyncio.create_task(ask(session, chat("new", delay=0.5), headers=second))
                await soon(lambda: gateway.journal("began")[-1]["model"] == "new", within=5)
                refused = await ask(session, chat("m"), headers=second)
                assert refused.status == 503
                assert "retry-after" in refused.headers
                assert (await slow).whole
                answers = await asyncio.gather(*tasks)
                complete = sum(answer.whole for answer in answers)

            # A mistake in the file changes nothing and is logged.
            gateway.change(model=[{"id": "broken"}])
            gateway.signal(signal.SIGHUP)
            await soon(lambda: gateway.log("settings not reloaded"), within=5)
            assert (await ask(session, chat("new"), headers=second)).whole
    figures.at_least(3, "SIGHUP with 50 streams: complete", complete, STREAMS)
