"""Discovery of the models of servers and folders, also when one of them fails."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

import catalog.discovery
from backends.base import Upstream
from backends.http import HttpClient
from backends.registry import backends
from backends.settings import BackendSettings
from catalog.discovery import MAX_LISTED, discovered_row
from catalog.errors import ModelTemporarilyUnavailable
from catalog.model import Capability, Endpoint, Model
from routing.calling.lease import upstream_of
from routing.upstreams.discovery import MAX_FAILURES, Discovery, DiscoverySettings, Listing
from routing.upstreams.provider_keys import KeyPools, SecretResolver
from tests.fakes.gguf import chat_model
from tests.fakes.ollama import FakeOllama
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from tests.loop_time import virtual_time
from tests.routing.clocks import ManualClock


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    async with HttpClient(BackendSettings()) as client:
        yield client


def discovery(
    http: HttpClient, *servers: Endpoint, environment: dict[str, str] | None = None, **fields: object
) -> Discovery:
    keys = KeyPools(servers, SecretResolver(environment or {}), ManualClock())
    defaults = BackendSettings().timeouts()
    return Discovery(
        DiscoverySettings.model_validate({"timeout": 5, **fields}),
        backends(http),
        lambda server: upstream_of(server, "", keys, 0.0, defaults)[0],
    )


def server(fake: FakeOpenAI, name: str = "lan", **fields: object) -> Endpoint:
    return Endpoint.model_validate({"id": name, "base_url": fake.base_url, "discover": True, **fields})


async def test_the_models_of_an_openai_compatible_server_become_rows(http: HttpClient) -> None:
    async with FakeOpenAI(key="sesame") as fake:
        lan = server(fake, key_env=("LAN_KEY",))
        (found,) = await discovery(http, lan, environment={"LAN_KEY": "sesame"}).scan([lan])
    assert found.rows is not None
    assert {"lan/fake-chat", "lan/fake-embed"} <= {row.id for row in found.rows}


async def test_ollama_models_have_capabilities_and_context(http: HttpClient) -> None:
    async with FakeOllama() as fake:
        lan = server(fake, protocol="ollama")
        (found,) = await discovery(http, lan).scan([lan])
    rows = {row.id: row for row in found.rows or ()}
    assert Capability.TOOLS in rows["lan/fake-chat"].capabilities
    assert rows["lan/fake-embed"].capabilities == {Capability.EMBED}
    assert rows["lan/fake-chat"].limits.context_window == 2048


async def test_endpoints_without_discover_are_not_asked(http: HttpClient) -> None:
    async with FakeOpenAI() as fake:
        quiet = server(fake, discover=False)
        assert await discovery(http, quiet).scan([quiet]) == ()
        assert not fake.calls


async def test_the_models_of_a_server_that_is_gone_are_removed_at_once(http: HttpClient) -> None:
    absent = Endpoint(id="absent", base_url="http://127.0.0.1:9/v1", discover=True)
    (found,) = await discovery(http, absent).scan([absent])
    assert found.rows == ()
    assert found.error


async def test_a_server_that_answers_with_errors_keeps_its_models_for_a_few_scans(http: HttpClient) -> None:
    async with FakeOpenAI() as fake:
        fake.fault = Fault(status=503)
        lan = server(fake)
        scanning = discovery(http, lan)
        seen = []
        for _ in range(MAX_FAILURES):
            (found,) = await scanning.scan([lan])
            scanning.note([found])
            seen.append(found.rows)
    assert seen == [None] * (MAX_FAILURES - 1) + [()]


async def test_a_server_that_hangs_delays_the_others_no_longer_than_the_timeout(http: HttpClient) -> None:
    async with FakeOpenAI() as slow, FakeOpenAI() as quick:
        slow.fault = Fault(stall_after=0)
        servers = [server(slow, "slow"), server(quick, "quick")]
        with virtual_time() as now:
            began = now()
            hanging, listed = await discovery(http, *servers, timeout=0.3).scan(servers)
            assert now() - began == pytest.approx(0.3)
    assert hanging.error
    assert hanging.rows is None
    assert listed.rows


async def test_without_a_key_or_a_listing_protocol_the_listing_is_empty_with_a_reason(
    http: HttpClient,
) -> None:
    locked = Endpoint(id="locked", base_url="http://127.0.0.1:9", key_env=("NOT_SET",), discover=True)
    odd = Endpoint(id="odd", protocol="worker", base_url="http://127.0.0.1:9", discover=True)
    first, second = await discovery(http, locked, odd).scan([locked, odd])
    assert "No key" in (first.error or "")
    assert "'worker' cannot be asked" in (second.error or "")


async def test_files_in_folders_are_rows_until_they_are_deleted(http: HttpClient, tmp_path: Path) -> None:
    (tmp_path / "tiny-Q4_0.gguf").write_bytes(chat_model())
    scanning = discovery(http, folders=[tmp_path, tmp_path / "absent"])
    found, absent = await scanning.scan([])
    assert [row.engine for row in found.rows or ()] == ["llamacpp"]
    assert absent == Listing(str(tmp_path / "absent"), (), "there is no such folder")
    (tmp_path / "tiny-Q4_0.gguf").unlink()
    assert (await scanning.scan([]))[0].rows == ()


async def test_a_list_that_is_too_long_is_cut_with_one_warning_and_unchanged_rows_are_reused(
    http: HttpClient,
) -> None:
    async with FakeOpenAI() as fake:
        fake.models = ["auto", *(f"m{number}" for number in range(MAX_LISTED + 4))]
        lan = server(fake)
        scanning = discovery(http, lan)
        with capture_logs() as logs:
            (first,), (second,) = await scanning.scan([lan]), await scanning.scan([lan])
            scanning.note([first])
            scanning.note([second])
    assert first.rows is not None
    assert len(first.rows) == MAX_LISTED - 1
    assert second.rows is first.rows
    (warning,) = logs
    assert (warning["log_level"], warning["source"]) == ("warning", "lan")
    assert warning["left_out"] == (
        f"5 models beyond the first {MAX_LISTED} and 1 with names or facts that no model can have"
    )


async def test_rows_are_made_off_the_event_loop(http: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def made(endpoint: Endpoint, name: object, **fields: Any) -> Model | None:
        threads.append(threading.get_ident())
        return discovered_row(endpoint, name, **fields)

    monkeypatch.setattr(catalog.discovery, "discovered_row", made)
    async with FakeOpenAI() as openai, FakeOllama() as ollama:
        servers = [server(openai), server(ollama, "other", protocol="ollama")]
        listings = await discovery(http, *servers).scan(servers)
    assert all(each.rows for each in listings)
    assert threads
    assert threading.get_ident() not in threads


async def test_a_backend_that_raises_anything_spoils_only_its_own_list() -> None:
    class Broken:
        async def list_models(self, upstream: Upstream, server: Endpoint) -> list[Model]:
            raise ZeroDivisionError(upstream.endpoint + server.id)

    class Long:
        async def list_models(self, upstream: Upstream, server: Endpoint) -> list[Model]:
            rows = [discovered_row(server, f"{upstream.endpoint}{n}") for n in range(MAX_LISTED + 1)]
            return [row for row in rows if row is not None]

    names = "broken", "long"
    servers = [Endpoint(id=name, protocol=name, base_url="http://127.0.0.1:9", discover=True) for name in names]
    keys = KeyPools(servers, SecretResolver({}), ManualClock())
    scanning = Discovery(
        DiscoverySettings(),
        {"broken": Broken(), "long": Long()},
        lambda each: upstream_of(each, "", keys, 0.0, BackendSettings().timeouts())[0],
    )
    broken, long = await scanning.scan(servers)
    assert broken == Listing("broken", None, "its list cannot be read (ZeroDivisionError)")
    assert len(long.rows or ()) == MAX_LISTED
    assert long.missing == f"1 models beyond the first {MAX_LISTED}"


def test_without_a_usable_key_no_server_is_called() -> None:
    locked = Endpoint(id="locked", base_url="http://127.0.0.1:9", key_env=("A",))
    keys = KeyPools([locked], SecretResolver({}), ManualClock())
    with pytest.raises(ModelTemporarilyUnavailable):
        upstream_of(locked, "m", keys, 0.0, BackendSettings().timeouts())
