"""A gateway process: sockets, signals, reload, and clients that are slow or send too much."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from catalog.errors import ConfigurationError
from server.processes.data_folder import check_data_dir, claimed
from server.processes.reload import apply_settings
from server.processes.signals import Reloads, SignalHandlers
from server.processes.sockets import bind
from server.settings import ServerSettings
from tests.loop_time import virtual_time, within
from tests.server.api.test_chat import BODY, PATH, events
from tests.server.conftest import Start, settings
from tests.server.edge.test_disconnect import connect, post, rest
from tests.server.fakes import chunk, usage_chunk


def test_a_port_in_use_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigurationError, match=f"{port}: Address already in use. Stop the program that uses it"
        ):
            bind("127.0.0.1", port, 10)


def test_a_host_that_cannot_be_resolved_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Choose another --host"):
        bind("256.256.256.256", 0, 10)


def test_a_data_folder_that_is_a_file_is_refused_and_a_missing_one_is_created(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(ConfigurationError, match="Set data_dir"):
        check_data_dir(path)
    check_data_dir(tmp_path / "new")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


async def test_sigterm_drains_and_stops(serve: Start) -> None:
    async with serve(server={"drain": 30.0}) as gateway:
        go_on = asyncio.Event()
        gateway.backend.script = (chunk("Hello"), go_on, chunk(finish="stop"), usage_chunk())
        stream = asyncio.create_task(gateway.client.post(PATH, json={**BODY, "stream": True}))
        await gateway.backend.started.wait()
        handlers = SignalHandlers(gateway.server, gateway.services, None)
        with handlers.installed():
            os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(30):
                while not gateway.services.in_flight.draining:
                    await asyncio.sleep(0)
            assert (await gateway.client.get("/ready")).status_code == 503
            assert not gateway.server.should_exit
            go_on.set()
            assert events((await stream).text)[-1] == "[DONE]"
            await handlers.wait_finished()
            assert gateway.server.should_exit


def test_a_second_server_on_a_data_folder_is_warned_and_a_later_one_is_not(tmp_path: Path) -> None:
    with capture_logs() as logs:
        with claimed(tmp_path):
            assert not logs
            with claimed(tmp_path):
                pass
        assert [(entry["event"], entry["pid"]) for entry in logs] == [
            ("another server uses this data folder", str(os.getpid()))
        ]
        with claimed(tmp_path):
            assert len(logs) == 1


def test_a_full_disk_is_told_at_the_start_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int, __: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with capture_logs() as logs, claimed(tmp_path):
        assert [(entry["event"], entry["reason"]) for entry in logs] == [
            ("the data folder cannot be written", "No space left on device")
        ]


async def test_sighup_reloads_keys_and_limits_and_drops_nothing(serve: Start) -> None:
    async with serve() as gateway:
        gateway.dispatcher.gate = asyncio.Event()
        waiting = asyncio.create_task(gateway.client.post(PATH, json=BODY))
        await gateway.dispatcher.waiting.wait()
        fresh = settings(api_keys="new-key", server=ServerSettings(port=0))
        handlers = SignalHandlers(gateway.server, gateway.services, lambda: fresh)
        with handlers.installed():
            os.kill(os.getpid(), signal.SIGHUP)
            async with asyncio.timeout(30):
                while gateway.services.settings is not fresh:
                    await asyncio.sleep(0)
        assert (await gateway.client.get("/v1/models")).status_code == 401
        assert (await gateway.client.get("/v1/models", headers={"x-api-key": "new-key"})).status_code == 200
        gateway.dispatcher.gate.set()
        assert (await waiting).status_code == 200


async def test_a_reload_that_is_asked_for_during_another_follows_it_once() -> None:
    go_on, begun = asyncio.Event(), 0

    async def reload() -> None:
        nonlocal begun
        begun += 1
        await go_on.wait()

    reloads = Reloads(reload)
    reloads.ask()
    while begun == 0:
        await asyncio.sleep(0)
    for _ in range(3):
        reloads.ask()
    go_on.set()
    await reloads.wait_finished()
    assert begun == 2
    reloads.ask()
    await reloads.wait_finished()
    assert begun == 3


async def test_a_reload_with_a_mistake_changes_nothing(serve: Start) -> None:
    async with serve() as gateway:
        before = gateway.services.settings
        with pytest.raises(ConfigurationError, match=r"server\.port needs a restart"):
            await apply_settings(gateway.services, settings(server=ServerSettings(port=9)))
        assert gateway.services.settings is before


async def test_a_connection_whose_headers_take_too_long_is_closed(serve: Start) -> None:
    async with serve(server={"timeouts": {"headers": 0.2}}) as gateway:
        silent, first = await connect(gateway)
        slow, second = await connect(gateway)
        second.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-a:")
        assert await within(0.3, rest(silent)) == b""
        assert await within(0.3, rest(slow)) == b""
        assert (await gateway.client.get("/health")).status_code == 200
        first.close()
        second.close()


async def test_a_body_that_stalls_is_answered_408(serve: Start) -> None:
    async with serve(server={"timeouts": {"body_idle": 0.1}}) as gateway:
        reader, writer = await connect(gateway)
        writer.write(post(PATH, BODY)[:-5])
        answer = await within(0.2, reader.readuntil(b"}}"))
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"request_timeout" in answer
        writer.close()


async def test_the_connection_of_a_refused_body_is_closed(serve: Start) -> None:
    async with serve(api_keys="k") as gateway:
        reader, writer = await connect(gateway)
        writer.write(post(PATH, BODY)[:-5])
        assert b"401" in await within(4, rest(reader))
        writer.close()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-big: " + b"x" * 40_000 + b"\r\n\r\n", b"431"),
        (b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + b"x-a: b\r\n" * 200 + b"\r\n", b"431"),
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n", b"431"),
        (b"NONSENSE\r\n\r\n", b"400"),
        (b"POST /v1/rerank HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", b"400"),
    ],
)
async def test_malformed_http_is_answered_in_the_error_shape(
    serve: Start, request_bytes: bytes, status: bytes
) -> None:
    async with serve() as gateway:
        reader, writer = await connect(gateway)
        writer.write(request_bytes)
        answer = await rest(reader)
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert b'{"error":{"message":' in answer
        assert b"x-request-id: req_" in answer
        writer.close()


async def test_the_header_timeout_starts_anew_for_each_request_of_a_connection(serve: Start) -> None:
    async with serve(server={"timeouts": {"headers": 0.3}}) as gateway:
        reader, writer = await connect(gateway)
        with virtual_time():
            for pause in (0.0, 0.2, 0.2, 0.4):
                await asyncio.sleep(pause)
                writer.write(post(PATH, BODY))
                head = await reader.readuntil(b"\r\n\r\n")
                assert b" 200 " in head
                await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
        writer.close()
