"""Fetching of pictures: off by default; when on, only checked addresses of listed hosts are connected to."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from backends.fetch import Fetcher, is_public, target_of
from backends.settings import FetchSettings
from catalog.errors import InvalidRequest, PayloadTooLarge, RoundhouseError, UndecodableMedia
from tests.security.conftest import CHAT, OpenSite, assert_error
from tests.security.tricks import ALLOWED, SPECIAL_ADDRESSES, TRICKS


def png(width: int = 1, height: int = 1) -> bytes:
    """A picture of one colour, or the head of one that claims to be larger."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    )


@dataclass
class Net:
    """Resolves names as told, and records every lookup and every attempted connection."""

    answers: list[Sequence[str]] = field(default_factory=list)
    lookups: list[str] = field(default_factory=list)
    connections: list[Any] = field(default_factory=list)

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        self.lookups.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Net:
    """Record every connection that this process opens."""
    watched = Net(answers=[["127.0.0.1"]])
    real = asyncio.SelectorEventLoop.sock_connect

    async def sock_connect(loop: asyncio.SelectorEventLoop, sock: Any, address: Any) -> None:
        watched.connections.append(address)
        await real(loop, sock, address)

    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_connect", sock_connect)
    return watched


@dataclass
class Gallery:
    """A web server on loopback that serves the pictures of a test."""

    port: int
    asked: list[str] = field(default_factory=list)
    show: Callable[[web.Request], web.StreamResponse] = lambda _: web.Response(
        body=png(), content_type="image/png"
    )


@pytest.fixture
async def gallery() -> AsyncIterator[Gallery]:
    shown = Gallery(0)

    async def handle(request: web.Request) -> web.StreamResponse:
        shown.asked.append(request.headers["host"] + request.path_qs)
        return shown.show(request)

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    shown.port = runner.addresses[0][1]
    yield shown
    await runner.cleanup()


def fetcher(net: Net, *ports: int, anywhere: bool = True, **settings: Any) -> Fetcher:
    """A fetcher for the allowed host. ``anywhere`` treats loopback, where the gallery is, as public."""
    chosen = FetchSettings(hosts=(ALLOWED,), ports=(80, 443, *ports), timeout=2.0, **settings)
    return Fetcher(chosen, resolve=net.resolve, public=(lambda _: True) if anywhere else is_public)


def test_there_are_enough_tricks() -> None:
    assert len(set(TRICKS)) >= 150


@pytest.mark.parametrize("url", TRICKS, ids=lambda url: ascii(url)[:60])
async def test_a_trick_is_neither_looked_up_nor_connected_to(net: Net, url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await fetcher(net).fetch(url)
    assert refused.value.status == 400
    assert (net.lookups, net.connections) == ([], [])


@pytest.mark.parametrize("address", SPECIAL_ADDRESSES)
async def test_a_listed_name_at_a_special_address_is_not_connected_to(net: Net, address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    for answer in ([address], ["93.184.215.14", address], [address, "93.184.215.14"]):
        net.answers = [answer]
        with pytest.raises(InvalidRequest, match="fetched from this host"):
            await fetcher(net, anywhere=False).fetch(f"http://{ALLOWED}/a.png")
    assert net.connections == []


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.215.14", "2606:2800:21f:cb07::1", "2a00:1450::1"])
def test_the_open_internet_is_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


async def test_a_listed_picture_is_fetched_and_becomes_data(net: Net, gallery: Gallery) -> None:
    url = await fetcher(net, gallery.port).fetch(f"http://{ALLOWED}:{gallery.port}/a.png?x=%20")
    assert url == f"data:image/png;base64,{base64.b64encode(png()).decode()}"
    assert gallery.asked == [f"{ALLOWED}:{gallery.port}/a.png?x=%20"]
    assert net.connections == [("127.0.0.1", gallery.port)]


async def test_a_name_that_answers_differently_the_second_time_is_asked_once(net: Net, gallery: Gallery) -> None:
    net.answers = [["127.0.0.1"], ["127.0.0.2"]]
    await fetcher(net, gallery.port).fetch(f"http://{ALLOWED}:{gallery.port}/a.png")
    assert net.lookups == [ALLOWED]
    assert {address for address, _ in net.connections} == {"127.0.0.1"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("to", ["http://127.0.0.2/", "//127.0.0.2/", "/elsewhere", "file:///etc/passwd"])
async def test_redirects_are_not_followed(net: Net, gallery: Gallery, status: int, to: str) -> None:
    gallery.show = lambda _: web.Response(status=status, headers={"location": to})
    with pytest.raises(InvalidRequest, match="Redirects are not followed"):
        await fetcher(net, gallery.port).fetch(f"http://{ALLOWED}:{gallery.port}/a.png")
    assert len(gallery.asked) == 1
    assert net.connections == [("127.0.0.1", gallery.port)]


@pytest.mark.parametrize(
    ("body", "headers", "error"),
    [
        (b"<svg/>", {"content-type": "image/svg+xml"}, UndecodableMedia),
        (b"<html>", {"content-type": "text/html"}, UndecodableMedia),
        (b"root:x:0:0", {"content-type": "image/png"}, UndecodableMedia),
        (png(), {"content-type": "application/octet-stream"}, UndecodableMedia),
        (zlib.compress(png()), {"content-type": "image/png", "content-encoding": "deflate"}, UndecodableMedia),
        (png(60_000, 60_000), {"content-type": "image/png"}, PayloadTooLarge),
        (png() + b"\0" * 100_000, {"content-type": "image/png"}, PayloadTooLarge),
        (b"", {"content-type": "image/png"}, UndecodableMedia),
    ],
)
async def test_only_real_pictures_of_bounded_size(
    net: Net, gallery: Gallery, body: bytes, headers: dict[str, str], error: type[RoundhouseError]
) -> None:
    gallery.show = lambda _: web.Response(body=body, headers=headers)
    with pytest.raises(error):
        await fetcher(net, gallery.port, max_bytes=50_000).fetch(f"http://{ALLOWED}:{gallery.port}/a.png")


async def test_a_lookup_that_takes_too_long_ends(net: Net) -> None:
    async def never(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    slow = Fetcher(FetchSettings(hosts=(ALLOWED,), timeout=0.05), resolve=never)
    with pytest.raises(InvalidRequest, match="could not be fetched"):
        await slow.fetch(f"http://{ALLOWED}/a.png")
    assert net.connections == []


def test_hosts_are_listed_by_name_or_as_all_names_below_one() -> None:
    settings = FetchSettings(hosts=("*.cdn.example",))
    assert target_of("https://a.cdn.example/x", settings).host == "a.cdn.example"
    assert target_of("HTTPS://A.CDN.EXAMPLE", settings).url == "https://a.cdn.example:443/"
    for other in ("https://cdn.example/", "https://evilcdn.example/", "https://a.cdn.example.evil.example/"):
        with pytest.raises(InvalidRequest):
            target_of(other, settings)


def picture(url: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}


async def test_through_the_server_addresses_are_refused_until_hosts_are_listed(
    site: OpenSite, net: Net, gallery: Gallery
) -> None:
    async with site() as running:
        near = {**CHAT, "model": "near"}
        for url in (f"http://127.0.0.1:{gallery.port}/a.png", "file:///etc/passwd", "http://pictures.example/a"):
            refused = await running.client.post("/v1/chat/completions", json={**near, **picture(url)})
            message = assert_error(refused, 400, "invalid_request")["message"]
            assert "data: URL" in message
        inline = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
        accepted = await running.client.post("/v1/chat/completions", json={**near, **picture(inline)})
        assert accepted.status_code == 200
    assert gallery.asked == []


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("data:image/png;base64,AAAA", 400),
        ("data:image/png;base64,!!!", 400),
        ("data:text/html;base64,PGI+", 400),
        ("data:image/png,raw", 400),
        ("data:", 400),
        ("", 400),
        (f"data:image/png;base64,{base64.b64encode(png(100_000, 100_000)).decode()}", 413),
        (f"data:image/png;base64,{base64.b64encode(png() + bytes(21 * 2**20)).decode()}", 413),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_pictures_in_a_request_are_real_and_bounded(site: OpenSite, url: str, status: int) -> None:
    async with site() as running:
        answer = await running.client.post("/v1/chat/completions", json={**CHAT, **picture(url)})
        assert_error(answer, status)


async def test_too_many_pictures_are_refused(site: OpenSite) -> None:
    inline = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": inline}}] * 65
    async with site() as running:
        body = {**CHAT, "messages": [{"role": "user", "content": parts}]}
        assert_error(await running.client.post("/v1/chat/completions", json=body), 413, "payload_too_large")


async def test_through_the_server_a_listed_name_of_this_machine_is_not_connected_to(
    site: OpenSite, net: Net, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetching is on and the listed name resolves to loopback, where the gallery would serve its picture."""
    real = socket.getaddrinfo
    asked_for: list[str] = []

    def rebound(host: Any, *rest: Any, **named: Any) -> Any:
        asked_for.append(host)
        return real("127.0.0.1" if host == ALLOWED else host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    async with site(backends={"fetch": {"hosts": [ALLOWED], "ports": [gallery.port]}}) as running:
        shown = picture(f"http://{ALLOWED}:{gallery.port}/a.png")
        refused = await running.client.post("/v1/chat/completions", json={**CHAT, **shown})
        assert "is fetched from this host" in assert_error(refused, 400, "invalid_request")["message"]
    assert ALLOWED in asked_for
    assert gallery.asked == []
    assert ("127.0.0.1", gallery.port) not in net.connections
