"""Requests as bytes: what HTTP/1.1 allows is served, what is ambiguous is refused."""

from __future__ import annotations

import asyncio

import httpx
import orjson
import pytest

from tests.server.api.test_chat import BODY, PATH
from tests.server.conftest import Gateway, Start
from tests.server.edge.test_disconnect import connect

JSON = orjson.dumps(BODY)
UPGRADE = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk")
LENGTH = f"Content-Length: {len(JSON)}"


def request(*headers: str, body: bytes = JSON, host: str | None = "localhost", method: str = "POST") -> bytes:
    lines = [f"{method} {PATH if method == 'POST' else '/v1/models'} HTTP/1.1"]
    lines += [f"Host: {host}"] if host else []
    lines += ["Content-Type: application/json", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def answers(gateway: Gateway, *pieces: bytes, count: int = 1) -> list[httpx.Response]:
    """The answers of one connection to these bytes, each piece sent after the loop has read the one before."""
    reader, writer = await connect(gateway)
    found: list[httpx.Response] = []
    try:
        async with asyncio.timeout(10):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.02)
            while len(found) < count:
                head = await reader.readuntil(b"\r\n\r\n")
                status, *lines = head.decode().strip().split("\r\n")
                headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
                length = int({name.lower(): value for name, value in headers}.get("content-length", 0))
                body = await reader.readexactly(length)
                found.append(httpx.Response(int(status.split()[1]), headers=headers, content=body))
    finally:
        writer.close()
    return found


@pytest.mark.parametrize("pieces", [1, 2], ids=["at once", "body later"])
async def test_an_offer_to_upgrade_to_http2_is_served_as_http1_again_and_again(serve: Start, pieces: int) -> None:
    one = request(*UPGRADE, LENGTH)
    cut = len(one) - len(JSON)
    sent = [one] if pieces == 1 else [one[:cut], one[cut:]]
    async with serve() as gateway:
        found = await answers(gateway, *sent, *sent, request(LENGTH), count=3)
    assert [answer.status_code for answer in found] == [200, 200, 200]
    assert all(answer.json()["choices"] for answer in found)


async def test_offers_to_upgrade_may_be_pipelined_chunked_or_without_a_body(serve: Start) -> None:
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(JSON), JSON)
    chunked = request(*UPGRADE, "Transfer-Encoding: chunked", body=chunks)
    listing = request(*UPGRADE, body=b"", method="GET")
    async with serve() as gateway:
        found = await answers(gateway, request(*UPGRADE, LENGTH) + chunked + listing + request(LENGTH), count=4)
    assert [answer.status_code for answer in found] == [200] * 4


@pytest.mark.parametrize(
    ("headers", "host"),
    [
        (("Host: other",), "localhost"),
        (("host: localhost",), "localhost"),
        (("Authorization: Bearer a", "Authorization: Bearer b"), "localhost"),
        (("authorization: Bearer a", "AUTHORIZATION: Bearer a"), "localhost"),
    ],
)
async def test_two_hosts_or_two_keys_are_a_400(serve: Start, headers: tuple[str, ...], host: str) -> None:
    async with serve() as gateway:
        (answer,) = await answers(gateway, request(*headers, LENGTH, host=host))
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_request"
    assert "header" in answer.json()["error"]["message"]


async def test_trailers_are_not_headers(serve: Start) -> None:
    trailer = b"Authorization: Bearer sk-right\r\nHost: other\r\nx-request-id: planted\r\n"
    body = b"%x\r\n%s\r\n0\r\n%s\r\n" % (len(JSON), JSON, trailer)
    chunked = request("Transfer-Encoding: chunked", body=body)
    cut = len(chunked) - len(trailer) - 2
    async with serve() as gateway:
        for sent in ([chunked], [chunked[:cut], chunked[cut:]]):
            (answer,) = await answers(gateway, *sent)
            assert answer.status_code == 200
            assert answer.headers["x-request-id"] != "planted"
    async with serve(api_keys=["sk-right"]) as gateway:
        (answer,) = await answers(gateway, chunked)
    assert answer.status_code == 401


async def test_a_stream_whose_client_wants_to_close_has_one_connection_header(serve: Start) -> None:
    body = orjson.dumps({**BODY, "stream": True})
    sent = request("Connection: close", f"Content-Length: {len(body)}", body=body)
    async with serve() as gateway:
        reader, writer = await connect(gateway)
        writer.write(sent)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        writer.close()
    assert head.count(b"\nconnection:") == 1
    assert b"connection: close" in head
