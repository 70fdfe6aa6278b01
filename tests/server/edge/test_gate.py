"""The gate: request ids, Host headers, keys, concurrency limits."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from catalog.errors import ConfigurationError
from server.api.console import CONSOLE_PATHS
from server.app import create_app
from server.edge.gate import OPEN_PATHS
from tests.server.api.test_chat import BODY, PATH
from tests.server.conftest import Start, settings
from tests.server.fakes import fake_runtime
from tests.server.test_bad_input import error

KEYS = {"api_keys": "caller-key", "admin_keys": "admin-key"}
BEARER = {"authorization": "Bearer caller-key"}
ADMIN = {"authorization": "Bearer admin-key"}


PROBED = ("/", "/api/hello")
"""Paths at which clients look with HEAD whether there is a server, before they have a key to send."""


def every_route() -> list[tuple[str, str]]:
    """Method and path of each route of the app."""
    app = create_app(settings(), runtime=fake_runtime()[0])
    return [
        (method, str(getattr(route, "path", "")).replace("{model_id:path}", "parrot"))
        for route in app.routes
        for method in sorted(getattr(route, "methods", None) or ())
    ]


def test_the_list_of_routes_is_not_empty() -> None:
    paths = {path for _, path in every_route()}
    assert {"/v1/chat/completions", "/v1/models", "/openapi.json", "/metrics", "/health"} <= paths


@pytest.mark.parametrize(("method", "path"), every_route())
async def test_every_route_wants_a_key_but_health_ready_and_the_console(
    start: Start, method: str, path: str
) -> None:
    async with start(**KEYS) as gateway:
        answer = await gateway.client.request(method, path)
        if path.endswith("/images/files/{name}"):
            assert answer.status_code == 404, "the name of a picture is its key, and there is none of this name"
        elif path in CONSOLE_PATHS:
            assert answer.status_code in (200, 307, 404), "files without data, or none of that name"
        elif path in OPEN_PATHS or (method == "HEAD" and path in PROBED):
            assert answer.status_code == 200
        else:
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("method", "path", "anthropics"),
    [
        ("POST", "/v1/messages", True),
        ("GET", "/v1/models/none", True),
        ("GET", "/v1/files/none", True),
        ("GET", "/v1/organizations", True),
        ("POST", "/v1/chat/completions", False),
        ("POST", "/v1/embeddings", False),
        ("GET", "/v1/responses/none", False),
    ],
)
async def test_a_header_of_anthropics_changes_the_errors_of_its_own_paths_alone(
    start: Start, method: str, path: str, *, anthropics: bool
) -> None:
    async with start(**KEYS) as gateway:
        told = {**BEARER, "anthropic-version": "2023-06-01"}
        refused = await gateway.client.request(method, path, headers=told, json={} if method == "POST" else None)
        assert refused.status_code in (400, 404)
        assert (refused.json().get("type") == "error") is anthropics


async def test_unknown_paths_want_a_key_too(start: Start) -> None:
    async with start(**KEYS) as gateway:
        error(await gateway.client.get("/v1/secret"), 401, "invalid_api_key")


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer caller-key"},
        {"authorization": "bearer   caller-key"},
        {"x-api-key": "caller-key"},
        {"api-key": "caller-key"},
    ],
)
async def test_every_way_of_sending_a_key(start: Start, headers: dict[str, str]) -> None:
    async with start(**KEYS) as gateway:
        assert (await gateway.client.post(PATH, json=BODY, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer caller-ke"},
        {"authorization": "Basic caller-key"},
        {"authorization": "caller-key"},
        {"authorization": "Bearer "},
        {"x-api-key": ""},
        {"x-api-key": "k" * 10_000},
    ],
)
async def test_other_keys_are_refused(start: Start, headers: dict[str, str]) -> None:
    async with start(**KEYS) as gateway:
        error(await gateway.client.post(PATH, json=BODY, headers=headers), 401, "invalid_api_key")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models/parrot/load"),
        ("POST", "/v1/models/parrot/unload"),
        ("GET", "/v1/admin/workers"),
        ("GET", "/v1/admin/workers/parrot/log"),
    ],
)
async def test_administration_wants_an_admin_key(start: Start, method: str, path: str) -> None:
    async with start(**KEYS) as gateway:
        error(await gateway.client.request(method, path, headers=BEARER), 403, "permission_denied")
        assert (await gateway.client.request(method, path, headers=ADMIN)).status_code == 200


def test_an_open_address_without_keys_does_not_start() -> None:
    with pytest.raises(ConfigurationError, match="--insecure"):
        create_app(settings(server={"host": "0.0.0.0"}), runtime=fake_runtime()[0])
    create_app(settings(server={"host": "0.0.0.0", "insecure": True}), runtime=fake_runtime()[0])
    create_app(settings(server={"host": "0.0.0.0"}, api_keys="k"), runtime=fake_runtime()[0])


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "127.0.0.1", "127.0.0.1:1", "[::1]:8000", "127.8.8.8"]
)
async def test_names_of_this_machine_are_answered(start: Start, host: str) -> None:
    async with start() as gateway:
        assert (await gateway.client.get("/v1/models", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "10.0.0.1", "", "127.0.0.1.nip.io", "[::2]"]
)
async def test_other_names_are_refused(start: Start, host: str) -> None:
    async with start() as gateway:
        error(await gateway.client.get("/v1/models", headers={"host": host}), 403, "permission_denied")


async def test_names_that_are_allowed_are_answered(start: Start) -> None:
    async with start(server={"allowed_hosts": ["llm.example", "*.lan"]}) as gateway:
        hosts = {"llm.example": 200, "box.lan:80": 200, "[::1]:80": 200, "lan": 403, "other.example": 403}
        malformed = (
            "llm.example:80@evil.example",
            "llm.example:x",
            "[::1]evil.example",
            "llm.example@evil.example",
        )
        for host, status in {**hosts, **dict.fromkeys(malformed, 403)}.items():
            assert (await gateway.client.get("/v1/models", headers={"host": host})).status_code == status, host


async def test_request_ids(start: Start) -> None:
    async with start() as gateway:
        own = await gateway.client.get("/health", headers={"x-request-id": "my-id.1"})
        assert own.headers["x-request-id"] == "my-id.1"
        for bad in ("a b", "x" * 200, "<script>"):
            made = await gateway.client.get("/health", headers={"x-request-id": bad})
            assert made.headers["x-request-id"].startswith("req_")
        first, second = [(await gateway.client.get("/health")).headers["x-request-id"] for _ in range(2)]
        assert first != second


async def test_a_full_server_refuses_at_once_with_retry_after(start: Start) -> None:
    async with start(server={"limits": {"concurrency": 1, "retry_after": 2}}) as gateway:
        gateway.dispatcher.gate = asyncio.Event()
        first = asyncio.create_task(gateway.client.post(PATH, json=BODY))
        await gateway.dispatcher.waiting.wait()
        refused = await gateway.client.post(PATH, json=BODY)
        error(refused, 503, "service_unavailable")
        assert refused.headers["retry-after"] == "2"
        assert (await gateway.client.get("/health")).status_code == 200
        gateway.dispatcher.gate.set()
        assert (await first).status_code == 200
        assert (await gateway.client.post(PATH, json=BODY)).status_code == 200


async def test_one_key_cannot_use_the_whole_concurrency(start: Start) -> None:
    async with start(server={"limits": {"concurrency_per_key": 1}}, **KEYS) as gateway:
        gateway.dispatcher.gate = asyncio.Event()
        first = asyncio.create_task(gateway.client.post(PATH, json=BODY, headers=BEARER))
        await gateway.dispatcher.waiting.wait()
        refused = await gateway.client.post(PATH, json=BODY, headers=BEARER)
        error(refused, 429, "rate_limit_exceeded")
        assert refused.headers["retry-after"]
        other = asyncio.create_task(gateway.client.post(PATH, json=BODY, headers=ADMIN))
        gateway.dispatcher.gate.set()
        assert {(await first).status_code, (await other).status_code} == {200}


async def test_cross_origin_calls_are_off_by_default_and_named_when_on(start: Start) -> None:
    asking = {"origin": "https://app.example", "access-control-request-method": "POST"}
    async with start() as gateway:
        answer = await gateway.client.get("/health", headers=asking)
        assert "access-control-allow-origin" not in answer.headers
    async with start(server={"cors": {"origins": ["https://app.example"]}}, **KEYS) as gateway:
        preflight = await gateway.client.options(PATH, headers=asking)
        assert preflight.headers["access-control-allow-origin"] == "https://app.example"
        refused = await gateway.client.post(PATH, json=BODY, headers={"origin": "https://app.example"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://app.example"
        stranger = await gateway.client.get("/health", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in stranger.headers


def test_every_handler_is_async() -> None:
    app = create_app(settings(), runtime=fake_runtime()[0])
    handlers = [route.endpoint for route in app.routes if isinstance(route, APIRoute)]
    assert handlers
    assert all(asyncio.iscoroutinefunction(handler) for handler in handlers)


SIMPLE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/models/parrot/unload", {}),
    ("/v1/models/parrot/load", {"content": "", "headers": {"content-type": "text/plain;charset=UTF-8"}}),
    ("/v1/files", {"files": {"file": ("a.txt", b"a")}, "data": {"purpose": "user_data"}}),
    ("/api/generate", {"content": '{"model": "parrot"}', "headers": {"content-type": "text/plain"}}),
)


@pytest.mark.parametrize(("path", "sent"), SIMPLE)
@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
async def test_a_page_of_another_origin_cannot_post_what_needs_no_preflight(
    start: Start, path: str, sent: dict[str, Any], origin: str
) -> None:
    async def status(client: httpx.AsyncClient, origin: str) -> int:
        headers = {**sent.get("headers", {}), "origin": origin}
        return (await client.post(path, **{**sent, "headers": headers})).status_code

    async with start() as gateway:
        assert await status(gateway.client, origin) == 403
        assert not gateway.pool.loaded
        own = str(gateway.client.base_url).rstrip("/")
        assert await status(gateway.client, own) != 403
        body = await gateway.client.post(PATH, json=BODY, headers={"origin": origin})
        assert body.status_code == 200, "a body of JSON is sent after a preflight alone"
    async with start(server={"cors": {"origins": ["https://app.example"]}}) as gateway:
        assert await status(gateway.client, "https://app.example") != 403
    async with start(**KEYS) as gateway:
        assert await status(gateway.client, origin) == 401, "a key is a header, which needs a preflight"
