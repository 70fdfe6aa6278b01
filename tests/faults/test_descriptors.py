"""At the limit of open files: one warning that names it, refusals as 503, and service as before afterwards."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from server.edge.descriptors import DescriptorReserve
from tests.faults.serving import Gateway, ask, chat, client, serving, soon, worker_row

pytestmark = pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs util-linux")
REQUEST = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"


def soft_limit(gateway: Gateway) -> str:
    output = subprocess.check_output(
        ["prlimit", "--pid", str(gateway.pid), "--nofile", "--output", "SOFT", "--noheadings"]
    )
    return output.decode().strip()


def connected(gateway: Gateway, stack: ExitStack) -> socket.socket:
    host, port = gateway.url.removeprefix("http://").rsplit(":", 1)
    made = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
    made.sendall(REQUEST)
    return made


def status(connection: socket.socket) -> tuple[int, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        received = connection.recv(65536)
        if not received:
            return 0, data
        data += received
    return int(data.split(b" ", 2)[1]), data


async def test_too_many_connections_are_refused_with_a_503_and_one_warning(tmp_path: Path) -> None:
    with serving(tmp_path, model=[worker_row("m", tmp_path)], wrapped=("prlimit", "--nofile=160:160")) as gateway:
        with ExitStack() as stack:
            statuses = []
            for _ in range(140):
                connection = connected(gateway, stack)
                statuses.append(await asyncio.to_thread(status, connection))
            codes = [code for code, _ in statuses]
            served = codes.index(503)
            assert set(codes[:served]) == {200}
            assert set(codes[served:]) == {503}, "and none is dropped"
            head, _, body = statuses[served][1].partition(b"\r\n\r\n")
            assert b"retry-after: 1" in head.lower()
            assert json.loads(body)["error"]["code"] == "service_unavailable"
            (warning,) = [
                line for line in gateway.log() if line["level"] == "warning" and "open files" in line["event"]
            ]
            assert warning["limit"] == 160

        async def works() -> bool:
            async with client(gateway) as session:
                return (await ask(session, chat("m"))).whole

        await soon(lambda: gateway.get("/v1/models").status_code == 200, within=10)
        assert await works()


def test_the_soft_limit_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    with serving(tmp_path, model=[worker_row("m", tmp_path)], wrapped=("prlimit", "--nofile=128:512")) as gateway:
        assert soft_limit(gateway) == "512"


def test_without_a_limit_nothing_is_refused() -> None:
    for unlimited in (0, -1, 2**63 - 1):
        assert not DescriptorReserve(unlimited).exhausts(10**6)
