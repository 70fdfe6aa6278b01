"""Ways to an upstream: TLS that is checked, proxies, several addresses, connections that are kept and bounded."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trustme
from pydantic import SecretStr, ValidationError

from backends.base import Upstream
from backends.http import HttpClient
from backends.settings import BackendSettings
from catalog.errors import UpstreamUnreachable
from tests.loop_time import virtual_time

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]


class Site:
    """A server that answers every request with ``{}`` and remembers what each connection asked."""

    def __init__(self) -> None:
        self.asked: list[list[bytes]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine: list[bytes] = []
        self.asked.append(mine)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                mine.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")


@asynccontextmanager
async def listening(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port of a server on loopback."""
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await serve(reader, writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for writer in writers:
        if not writer.is_closing():  # asyncio fails to abort a TLS transport that is closed
            writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def tls_for(authority: trustme.CA, name: str) -> ssl.SSLContext:
    """A server's side of TLS, with a certificate for ``name``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def at(base_url: str, **fields: object) -> Upstream:
    return Upstream("there", "openai", base_url, "m", **fields)  # type: ignore[arg-type]


# ---- TLS


async def test_tls_with_a_certificate_that_is_trusted(authority: trustme.CA, ca_file: Path) -> None:
    site = Site()
    async with (
        listening(site.serve, tls_for(authority, "localhost")) as port,
        HttpClient(BackendSettings(ca_file=ca_file)) as http,
    ):
        for _ in range(2):
            assert await http.get_json(at(f"https://localhost:{port}/v1"), "/models") == {}
    assert [len(asked) for asked in site.asked] == [2], "one connection for both"


@pytest.mark.parametrize("why", ["unknown authority", "another name", "no TLS"])
async def test_tls_that_cannot_be_trusted_sends_nothing(authority: trustme.CA, ca_file: Path, why: str) -> None:
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            heard.append(await reader.read(65536))
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    name = "elsewhere.test" if why == "another name" else "localhost"
    settings = BackendSettings(ca_file=None if why == "unknown authority" else ca_file)
    context = None if why == "no TLS" else tls_for(authority, name)
    async with listening(listen, context) as port, HttpClient(settings) as http:
        with pytest.raises(UpstreamUnreachable, match="TLS"):
            await http.get_json(at(f"https://localhost:{port}/v1", api_key="sk-secret"), "/models")
    assert not any(b"sk-secret" in data for data in heard)


# ---- proxies


class Proxy:
    """An HTTP proxy that opens tunnels to ``port`` whatever is asked for, or refuses."""

    def __init__(self, port: int, *, status: bytes = b"200 Connection established") -> None:
        self.heads: list[bytes] = []
        self._port = port
        self._status = status

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 " + self._status + b"\r\n\r\n")
        if not self._status.startswith(b"200"):
            writer.close()
            return
        onward, outward = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(self._pump(reader, outward), self._pump(onward, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
            writer.close()


async def test_tls_goes_through_a_proxy_in_a_tunnel_that_the_proxy_cannot_read(
    authority: trustme.CA, ca_file: Path
) -> None:
    site = Site()
    async with listening(site.serve, tls_for(authority, "far.test")) as port:
        proxy = Proxy(port)
        async with listening(proxy.serve) as there:
            address = SecretStr(f"http://user:p%40ss@127.0.0.1:{there}")
            async with HttpClient(BackendSettings(proxy=address, ca_file=ca_file)) as http:
                upstream = at("https://far.test/v1", api_key="sk-secret")
                for _ in range(2):
                    assert await http.get_json(upstream, "/models") == {}
    (head,) = proxy.heads
    assert head.startswith(b"CONNECT far.test:443 HTTP/1.1\r\n")
    assert b"proxy-authorization: Basic " + base64.b64encode(b"user:p@ss") in head
    assert b"sk-secret" not in head
    ((first, _),) = site.asked
    assert first.startswith(b"GET /v1/models HTTP/1.1\r\n")
    assert b"proxy-authorization" not in first
    assert b"authorization: Bearer sk-secret" in first


@pytest.mark.parametrize("status", [b"407 Proxy Authentication Required", b"502 Bad Gateway"])
async def test_a_proxy_that_refuses_is_told_from_an_upstream_that_does(status: bytes) -> None:
    proxy = Proxy(0, status=status)
    async with (
        listening(proxy.serve) as port,
        HttpClient(BackendSettings(proxy=SecretStr(f"http://127.0.0.1:{port}"))) as http,
    ):
        with pytest.raises(UpstreamUnreachable, match="through the proxy"):
            await http.get_json(at("https://far.test/v1"), "/models")


@pytest.mark.parametrize("address", ["socks5://10.0.0.1:1080", "https://proxy.test", "proxy.test:3128", ""])
def test_a_proxy_that_could_not_be_used_is_refused_with_the_settings(address: str) -> None:
    with pytest.raises(ValidationError, match="http://"):
        BackendSettings(proxy=SecretStr(address))


# ---- connections


async def test_an_address_that_does_not_answer_is_passed_over() -> None:
    site = Site()
    async with listening(site.serve) as port, HttpClient() as http:
        upstream = at(f"http://two.test:{port}", addresses=("127.0.0.2", "127.0.0.1"))
        assert await http.get_json(upstream, "/models") == {}
    assert len(site.asked) == 1


async def test_a_connection_is_kept_for_its_time_and_then_closed() -> None:
    site = Site()
    with virtual_time():
        async with listening(site.serve) as port, HttpClient(BackendSettings(keepalive=30)) as http:
            for pause in (0, 31, 29, 31):
                await asyncio.sleep(pause)
                await http.get_json(at(f"http://127.0.0.1:{port}"), "/models")
    assert [len(asked) for asked in site.asked] == [1, 2, 1]
