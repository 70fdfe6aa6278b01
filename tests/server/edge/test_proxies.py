"""Headers of named proxies are believed, others' are not, and a path under which a proxy serves is honoured."""

from __future__ import annotations

import io
from typing import Any

import httpx
import orjson
import pytest
from starlette.requests import Request

from catalog.errors import ConfigurationError
from server.edge.proxies import BehindProxies, behind_proxies
from server.settings import ServerSettings, load_settings
from tests.server.api.test_chat import BODY, PATH
from tests.server.conftest import Start

PROXIES = ("10.0.0.0/8", "2001:db8::/32")


async def seen(
    headers: dict[str, str] | list[tuple[str, str]],
    *,
    peer: str | None = "10.0.0.1",
    path: str = "/v1/models",
    **server: Any,
) -> Request:
    """The request as the app behind the layer sees it."""
    found: list[Request] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append(Request(scope))

    given = headers.items() if isinstance(headers, dict) else headers
    raw = [(b"host", b"gateway:8000"), *((name.lower().encode(), value.encode()) for name, value in given)]
    scope = {
        "type": "http", "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": raw, "client": None if peer is None else (peer, 4711), "server": ("gateway", 8000),
    }  # fmt: skip
    layer = BehindProxies(app, ServerSettings(proxies=PROXIES, **server))
    await layer(scope, None, None)  # type: ignore[arg-type]
    return found[0]


def client(request: Request) -> str:
    assert request.client is not None
    return request.client.host


FORWARDED = {
    "X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "models.example:8443",
    "X-Forwarded-Prefix": "/llm",
}  # fmt: skip


async def test_a_named_proxy_says_who_asked_for_what() -> None:
    request = await seen(FORWARDED)
    assert client(request) == "203.0.113.9"
    assert str(request.base_url) == "https://models.example:8443/llm/"
    assert request.scope["path"] == "/v1/models"


@pytest.mark.parametrize("peer", ["203.0.113.5", "11.0.0.1", "::1", "not an address", None])
async def test_headers_of_anybody_else_change_nothing(peer: str | None) -> None:
    request = await seen(FORWARDED, peer=peer)
    assert str(request.base_url) == "http://gateway:8000/"
    assert request.client is None if peer is None else client(request) == peer


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9", "203.0.113.9"),  # what a client put before its address is not believed
        ("6.6.6.6, 203.0.113.9, 10.1.1.1", "203.0.113.9"),
        ("10.2.2.2, 10.1.1.1", "10.2.2.2"),
        ("203.0.113.9:1234", "203.0.113.9"),
        ("[2001:db9::1]:1234, 2001:db8::7", "2001:db9::1"),
        ("unknown, 10.1.1.1", "unknown"),
    ],
)
async def test_the_client_is_the_nearest_address_that_is_no_proxy(chain: str, expected: str) -> None:
    assert client(await seen({"X-Forwarded-For": chain})) == expected


async def test_a_list_of_schemes_as_long_as_that_of_clients_has_one_for_each() -> None:
    chain = {"X-Forwarded-For": "6.6.6.6, 203.0.113.9, 10.1.1.1"}
    request = await seen({**chain, "X-Forwarded-Proto": "http, https, http"})
    assert request.url.scheme == "https"
    assert (await seen({**chain, "X-Forwarded-Proto": "https"})).url.scheme == "https"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("for=203.0.113.9;proto=https;host=models.example", ("203.0.113.9", "https://models.example/")),
        ('For="[2001:db9::1]:4711";Proto=HTTPS', ("2001:db9::1", "https://gateway:8000/")),
        (
            'for=6.6.6.6;host=evil.example, for="203.0.113.9";host="models.example", for=10.1.1.1;host=inner',
            ("203.0.113.9", "http://models.example/"),
        ),
        ("for=_hidden;by=10.0.0.1 , for=10.1.1.1", ("_hidden", "http://gateway:8000/")),
        ("for=203.0.113.9;host", ("10.0.0.1", "http://gateway:8000/")),  # malformed: nothing is believed
        ('for="203.0.113.9', ("10.0.0.1", "http://gateway:8000/")),
    ],
)
async def test_the_standard_header(header: str, expected: tuple[str, str]) -> None:
    request = await seen({"Forwarded": header}, forwarded="forwarded")
    assert (client(request), str(request.base_url)) == expected


async def test_the_kind_of_headers_that_the_proxies_do_not_set_is_not_read() -> None:
    standard = {"Forwarded": "for=203.0.113.9;proto=https"}
    assert client(await seen(standard)) == "10.0.0.1"
    assert str((await seen(FORWARDED, forwarded="forwarded")).base_url) == "http://gateway:8000/"


@pytest.mark.parametrize(
    "bad",
    [
        {"X-Forwarded-Host": "evil.example/x?"}, {"X-Forwarded-Host": "a b"}, {"X-Forwarded-Proto": "javascript"},
        {"X-Forwarded-Prefix": "//evil.example"}, {"X-Forwarded-Prefix": "/../x"}, {"X-Forwarded-Prefix": "x"},
    ],
)  # fmt: skip
async def test_values_that_are_no_part_of_a_url_are_not_used(bad: dict[str, str]) -> None:
    request = await seen({"X-Forwarded-For": "203.0.113.9", **bad})
    assert str(request.base_url) == "http://gateway:8000/"
    assert client(request) == "10.0.0.1"


@pytest.mark.parametrize(
    ("kind", "header", "value"),
    [
        ("x-forwarded", "X-Forwarded-Host", "evil.example/x?"),
        ("x-forwarded", "X-Forwarded-Proto", "javascript"),
        ("x-forwarded", "X-Forwarded-Prefix", "//evil.example"),
        ("x-forwarded", "X-Forwarded-For", "nobody at all"),
        ("forwarded", "Forwarded", "for=203.0.113.9;host"),
        ("forwarded", "Forwarded", 'for=203.0.113.9;host="a b"'),
        ("forwarded", "Forwarded", "for=203.0.113.9;proto=gopher"),
    ],
)
async def test_a_malformed_header_of_a_proxy_is_refused_by_its_name(
    start: Start, kind: str, header: str, value: str
) -> None:
    async with start(server={"proxies": ["127.0.0.1"], "forwarded": kind}) as gateway:
        refused = await gateway.client.get("/v1/models", headers={header: value})
        assert refused.status_code == 400
        assert f"header {header} is malformed" in refused.json()["error"]["message"]
        unread = {"x-forwarded": "Forwarded", "forwarded": "X-Forwarded-Host"}[kind]
        assert (await gateway.client.get("/v1/models", headers={unread: "a b"})).status_code == 200


async def test_what_a_client_put_before_its_address_is_not_refused(start: Start) -> None:
    async with start(server={"proxies": ["127.0.0.1"]}) as gateway:
        headers = {"X-Forwarded-For": "nobody at all, 203.0.113.9"}
        assert (await gateway.client.get("/v1/models", headers=headers)).status_code == 200


async def test_the_scheme_of_a_websocket_is_that_of_its_handshake() -> None:
    assert (await seen({"X-Forwarded-Proto": "wss"})).url.scheme == "https"


@pytest.mark.parametrize(
    ("asked", "routed"),
    [("/llm/v1/models", "/v1/models"), ("/v1/models", "/v1/models"), ("/llm/", "/"), ("/llmx", "/llmx")],
)
async def test_a_root_path_may_be_stripped_by_the_proxy_or_not(asked: str, routed: str) -> None:
    request = await seen({}, path=asked, peer="127.0.0.1", root_path="/llm")
    assert request.scope["path"] == routed
    assert request.scope["raw_path"] == routed.encode()
    assert str(request.base_url) == "http://gateway:8000/llm/"


async def test_addresses_in_answers_begin_with_the_root_path(start: Start) -> None:
    server = {"root_path": "/llm", "proxies": ["127.0.0.1"], "allowed_hosts": ["models.example"]}
    async with start(server=server) as gateway:
        headers = {"x-forwarded-host": "models.example", "x-forwarded-proto": "https"}
        welcome = (await gateway.client.get("/llm/", headers=headers)).json()
        assert welcome["base_url"] == "https://models.example/llm/v1"
        assert (welcome["models"], welcome["console"]) == ("/llm/v1/models", "/llm/ui")
        document = (await gateway.client.get("/llm/openapi.json")).json()
        assert document["servers"] == [{"url": "/llm"}]
        folder = await gateway.client.get("/llm")
        assert (folder.status_code, folder.headers["location"]) == (307, "/llm/")
        console = await gateway.client.get("/llm/ui", headers=headers)
        assert (console.status_code, console.headers["location"]) == (307, "ui/")
        for path in (PATH, f"/llm{PATH}"):
            answer = await gateway.client.post(path, json=BODY)
            assert answer.status_code == 200, answer.text
        assert (await gateway.client.get("/llm/health")).status_code == 200


async def test_the_host_that_a_proxy_names_has_to_be_allowed_too(start: Start) -> None:
    async with start(server={"proxies": ["127.0.0.1"]}) as gateway:
        refused = await gateway.client.get("/v1/models", headers={"x-forwarded-host": "evil.example"})
        assert refused.status_code == 403


async def test_the_log_has_the_clients_address(start: Start, logs: io.StringIO) -> None:
    async with start(server={"proxies": ["127.0.0.1"]}, log={"access": True}) as gateway:
        await gateway.client.get("/v1/models", headers={"x-forwarded-for": "6.6.6.6, 203.0.113.9"})
    (line,) = [line for line in map(orjson.loads, logs.getvalue().splitlines()) if line["event"] == "request"]
    assert line["client"] == "203.0.113.9"


def test_a_server_without_proxies_has_no_layer_for_them() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    assert behind_proxies(app, ServerSettings()) is app


@pytest.mark.parametrize(
    ("server", "why"),
    [
        ({"proxies": ["*"]}, "no IP address and no network"),
        ({"proxies": ["10.0.0.1/8"]}, "no IP address and no network"),
        ({"root_path": "llm"}, "must be a path"),
        ({"root_path": "//evil.example"}, "must be a path"),
        ({"root_path": "/a?b"}, "must be a path"),
    ],
)
def test_proxies_and_paths_that_cannot_be_are_refused(server: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        load_settings(server=server)
    assert ServerSettings(root_path="/llm/").root_path == "/llm"


async def test_a_real_server_is_reached_through_a_path_of_a_proxy(serve: Start) -> None:
    async with serve(server={"root_path": "/llm"}) as gateway, httpx.AsyncClient() as outside:
        answer = await outside.get(f"{gateway.server.url}/llm/v1/models")
        assert answer.status_code == 200
