"""Row 8: a full disk, a locked or damaged state, a clock that jumps, names that do not resolve, half-closed
connections: the gateway answers, loses no settled charge, and logs the trouble once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from tests.faults.figures import Figures
from tests.faults.serving import Gateway, ask, chat, client, serving, soon, upstream_row, worker_row

PRICE = {"input": 1000.0, "output": 1000.0}
CAPS = {"caps": {"day": 1000.0}}


@asynccontextmanager
async def priced(folder: Path, **settings: Any) -> AsyncIterator[tuple[Gateway, FakeOpenAI]]:
    """A gateway with a priced model under a cap, so that every call is reserved and settled."""
    async with FakeOpenAI() as upstream:
        rows = [upstream_row("paid", "there", price=PRICE)]
        endpoint = [{"id": "there", "base_url": upstream.base_url}]
        with serving(folder, model=rows, endpoint=endpoint, spend=CAPS, **settings) as gateway:
            yield gateway, upstream


async def answered(gateway: Gateway, number: int) -> float:
    """Send ``number`` requests, which must all be answered; returns their cost in dollars."""
    cost = 0.0
    async with client(gateway) as session:
        for told in await asyncio.gather(*(ask(session, chat("paid")) for _ in range(number))):
            assert told.whole, told.body
            usage = told.body["usage"]
            cost += (usage["prompt_tokens"] + usage["completion_tokens"]) * 1000 / 1e6
    return cost


def booked(gateway: Gateway) -> float:
    """Dollars of usage in the store."""
    rows = gateway.get("/v1/usage").raise_for_status().json()["data"]
    return sum(float(row["cost"]) for row in rows)


async def all_booked(gateway: Gateway, cost: float) -> None:
    """Wait until the store has exactly this cost."""
    await soon(lambda: abs(booked(gateway) - cost) < 1e-9, within=10, every=0.1)


async def lag_is_told(gateway: Gateway) -> None:
    """While the state cannot be written, the usage, the health and the report say so."""
    for path in ("/v1/usage", "/v1/usage?format=csv"):
        told = gateway.get(path).raise_for_status()
        assert float(told.headers["x-roundhouse-usage-lag"]) > 0
    assert gateway.get("/v1/usage").json()["lag_seconds"] > 0
    assert gateway.get("/health").json()["state"].startswith("not written for ")
    assert gateway.get("/v1/admin/report").json()["state"]["lag_seconds"] > 0


async def no_lag(gateway: Gateway) -> None:
    """The usage and the health say nothing of a lag any more."""
    await soon(lambda: "lag_seconds" not in gateway.get("/v1/usage").json(), within=5)
    assert gateway.get("/health").json() == {"status": "ok"}


@contextmanager
def tmpfs(folder: Path) -> Iterator[Path]:
    """A file system of 4 MiB; skips the test where mounting is not allowed."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_full_disk_stops_no_answer_and_what_was_settled_is_written_when_there_is_room(
    tmp_path: Path, figures: Figures
) -> None:
    with tmpfs(tmp_path / "disk") as disk:
        async with priced(tmp_path, data_dir=str(disk)) as (gateway, _):
            cost = await answered(gateway, 5)
            filler = disk / "filler"
            with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
                while True:
                    file.write(b"x" * 4096)
            while len(gateway.log("state.not_written")) == 0:
                cost += await answered(gateway, 5)
            cost += await answered(gateway, 20)
            assert len(gateway.log("state.not_written")) == 1
            await lag_is_told(gateway)
            filler.unlink()
            await all_booked(gateway, cost)
            await no_lag(gateway)
            await soon(lambda: gateway.log("state.written_again"), within=5)
            figures.note(
                8, "disk full: answers lost, dollars lost, lines of log", bound="0, 0, 1", measured="0, 0, 1"
            )


async def test_a_locked_state_stops_no_answer_and_loses_nothing(tmp_path: Path, figures: Figures) -> None:
    async with priced(tmp_path) as (gateway, _):
        cost = await answered(gateway, 5)
        await all_booked(gateway, cost)
        lock = sqlite3.connect(tmp_path / "data" / "state.sqlite3", isolation_level=None)
        try:
            lock.execute("BEGIN IMMEDIATE")
            cost += await answered(gateway, 20)
            await soon(lambda: gateway.log("state.not_written"), within=5)
            cost += await answered(gateway, 20)
            assert len(gateway.log("state.not_written")) == 1
            await lag_is_told(gateway)
        finally:
            lock.close()
        await all_booked(gateway, cost)
        await no_lag(gateway)
    figures.note(8, "state locked: answers lost, dollars lost, lines of log", bound="0, 0, 1", measured="0, 0, 1")


def damage(state: Path) -> None:
    """Overwrite a state in use and change its schema, which invalidates the pages cached of it."""
    other = sqlite3.connect(state, isolation_level=None, timeout=10)
    try:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other.execute("BEGIN IMMEDIATE")
        other.execute("CREATE TABLE other (x)")
        with state.open("r+b") as file:
            file.write(os.urandom(state.stat().st_size))
        with contextlib.suppress(sqlite3.Error):
            other.execute("COMMIT")
    finally:
        other.close()


async def test_a_damaged_state_is_set_aside_and_said_once(tmp_path: Path, figures: Figures) -> None:
    async with priced(tmp_path) as (gateway, _):
        await all_booked(gateway, await answered(gateway, 5))
        state = tmp_path / "data" / "state.sqlite3"
        damage(state)
        async with client(gateway) as session:

            async def until_set_aside() -> None:
                while not gateway.log("state.set_aside"):
                    assert (await ask(session, chat("paid"))).whole

            await asyncio.wait_for(until_set_aside(), 20)
        assert len(gateway.log("state.set_aside")) == 1
        before = booked(gateway)
        cost = await answered(gateway, 20)
        await soon(lambda: booked(gateway) >= before + cost - 1e-9, within=10, every=0.1)
        assert len(gateway.log("state.set_aside")) == 1
        assert list(state.parent.glob("state.sqlite3.damaged-*"))
    figures.note(
        8, "state damaged: answers lost, lines of log, kept aside", bound="0, 1, yes", measured="0, 1, yes"
    )


async def test_a_damaged_state_does_not_keep_it_from_starting(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "state.sqlite3").write_bytes(os.urandom(8192))
    async with priced(tmp_path) as (gateway, _):
        await all_booked(gateway, await answered(gateway, 3))
        assert len(gateway.log("state.set_aside")) == 1


async def test_a_clock_set_back_gives_no_budget_back_and_disturbs_nothing(
    tmp_path: Path, figures: Figures
) -> None:
    async with FakeOpenAI() as upstream:
        rows = [upstream_row("paid", "there", price=PRICE)]
        endpoint = [{"id": "there", "base_url": upstream.base_url}]
        caps = {"caps": {"day": 0.2}, "assumed_output_tokens": 16}
        with serving(tmp_path, model=rows, endpoint=endpoint, spend=caps) as gateway:
            async with client(gateway) as session:
                spent = 0
                while (await ask(session, chat("paid"))).whole:
                    spent += 1
                assert spent > 0
                calls = len(upstream.calls)
                gateway.signal(signal.SIGUSR1)
                refused = await ask(session, chat("paid", stream=True))
                assert refused.status == 429
                assert refused.error is not None
                assert refused.error["code"] == "insufficient_quota"
                assert len(upstream.calls) == calls
            assert gateway.get("/v1/models").status_code == 200
            assert gateway.get("/v1/usage").status_code == 200
            assert not [line for line in gateway.log() if line["level"] == "error"]
    figures.note(8, "clock set back by a day: budget given back", bound="0", measured="0")


async def test_a_name_that_does_not_resolve_is_a_typed_error_and_another_replica_answers(
    tmp_path: Path, figures: Figures
) -> None:
    async with FakeOpenAI() as upstream:
        rows = [upstream_row(name, name, aliases=["either"]) for name in ("nowhere", "there")]
        endpoint = [
            {"id": "nowhere", "base_url": "http://no-such-host.invalid/v1", "connect_timeout": 2},
            {"id": "there", "base_url": upstream.base_url},
        ]
        with serving(tmp_path, model=rows, endpoint=endpoint) as gateway:
            async with client(gateway) as session:
                lost = await ask(session, chat("nowhere"))
                assert lost.error is not None
                assert lost.error["code"] in ("upstream_unreachable", "connect_timeout")
                assert lost.status in (502, 504)
                answers = [await ask(session, chat("either")) for _ in range(20)]
                assert all(answer.whole for answer in answers)
            assert len(gateway.log("request refused")) == 1
            # A line for each attempt until the breaker opens, and no more.
            assert len([line for line in gateway.log() if line["level"] in ("warning", "error")]) <= 1 + 5 + 1
    figures.note(8, "DNS fails: answered by the other replica", bound="20 of 20", measured="20 of 20")


async def test_sockets_closed_half_way_leave_nothing_behind(tmp_path: Path, figures: Figures) -> None:
    async with FakeOpenAI() as upstream:
        rows = [worker_row("m", tmp_path, slots=4), upstream_row("remote", "there")]
        endpoint = [{"id": "there", "base_url": upstream.base_url}]
        with serving(tmp_path, model=rows, endpoint=endpoint) as gateway:
            host, port = gateway.url.removeprefix("http://").rsplit(":", 1)
            async with client(gateway) as session:
                assert (await ask(session, chat("m"))).whole
                opened = connections(gateway)
                # Callers that close their sending side, within the headers, within the body.
                for part in (
                    b"POST /v1/chat",
                    b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 50\r\n\r\n{",
                ):
                    for _ in range(50):
                        with socket.create_connection((host, int(port))) as half:
                            half.sendall(part)
                            half.shutdown(socket.SHUT_WR)
                            half.settimeout(5)
                            while await asyncio.to_thread(half.recv, 4096):
                                pass
                # Upstreams that close early: before the headers, and within the answer.
                upstream.script(Fault(die_after=-1), Fault(cut_after=1), Fault(die_after=1))
                codes = []
                for _ in range(3):
                    told = await ask(session, chat("remote", stream=True))
                    codes.append(told.error and told.error["code"])
                    assert not told.done
                assert set(codes) <= {"upstream_unreachable", "stream_broken"}
                assert (await ask(session, chat("remote", stream=True))).whole
                assert (await ask(session, chat("m"))).whole
                await soon(gateway.at_rest, within=5)
                await soon(lambda: connections(gateway) <= opened + 2, within=10)
    figures.note(8, "100 half-closed connections: left open", bound="0", measured="0")


def connections(gateway: Gateway) -> int:
    """Number of open sockets of the gateway."""
    return sum(1 for file in Path(f"/proc/{gateway.pid}/fd").iterdir() if is_socket(file))


def is_socket(file: Path) -> bool:
    try:
        return str(file.readlink()).startswith("socket:")
    except FileNotFoundError:
        return False
