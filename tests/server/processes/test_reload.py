"""SIGHUP: every setting is applied or refused by name, and what is applied is in force."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from structlog.testing import capture_logs

from catalog.catalog import Catalog
from catalog.errors import ConfigurationError
from catalog.model import Capability, Model, PathSource
from catalog.types import Json
from routing.facts import Facts
from routing.outcomes import Result
from routing.plan import Block
from routing.upstreams.availability import Availability
from routing.upstreams.circuit import CircuitState
from routing.upstreams.discovery import Discovery, Listing
from server import catalog_updates
from server.app import create_app
from server.assembly import open_runtime
from server.catalog_updates import merged
from server.edge.services import Services
from server.processes.reload import APPLIED, NEEDS_RESTART, apply_settings, setting_names
from server.report import report
from server.runtime import Runtime
from server.settings import Settings
from tests.fakes.gguf import chat_model
from tests.routing.outcome_factory import outcome
from tests.server.conftest import settings

CHAT = Facts(capability=Capability.CHAT, prompt_tokens=10, output_tokens=10)
ROWS: dict[str, Any] = {
    "endpoint": [{"id": "lab", "base_url": "http://127.0.0.1:9/v1", "private": True}],
    "model": [
        {
            "id": name,
            "capabilities": ["chat"],
            "price": {"input": 1, "output": 1},
            "source": {"kind": "upstream", "endpoint": "lab", "model": name},
        }
        for name in ("one", "two")
    ],
}


class Running:
    """A gateway of real parts, without HTTP."""

    def __init__(self, app: FastAPI, overrides: dict[str, Any]) -> None:
        self.app = app
        self.services: Services = app.state.services
        self._overrides = overrides

    @property
    def runtime(self) -> Runtime:
        assert self.services.runtime is not None
        return self.services.runtime

    async def reload(self, **changes: Any) -> list[str]:
        return await apply_settings(self.services, settings(**{**self._overrides, **changes}))

    def first(self) -> str:
        return self.runtime.dispatcher.explain(CHAT).candidates[0].model.id


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    overrides = {"data_dir": tmp_path, **ROWS, "routing": {"preferred": {"chat": "one"}}}
    app = create_app(settings(**overrides), open_runtime=open_runtime)
    async with app.router.lifespan_context(app):
        yield Running(app, overrides)


def covers(entry: str, name: str) -> bool:
    return name == entry or name.startswith(f"{entry}.")


@pytest.mark.parametrize("name", list(setting_names(Settings)))
def test_every_setting_is_either_applied_or_needs_a_restart(name: str) -> None:
    assert len([entry for entry in (*APPLIED, *NEEDS_RESTART) if covers(entry, name)]) == 1


@pytest.mark.parametrize("entry", [*APPLIED, *NEEDS_RESTART])
def test_every_entry_of_the_table_is_a_setting(entry: str) -> None:
    assert any(covers(entry, name) for name in setting_names(Settings))


def changed(section: BaseModel, name: str) -> Any:
    """The settings with one value replaced by an object that equals no other."""
    first, _, rest = name.partition(".")
    value = changed(getattr(section, first), rest) if rest else object()
    return section.model_copy(update={first: value})


@pytest.mark.parametrize(
    "name", [name for name in setting_names(Settings) if any(covers(entry, name) for entry in NEEDS_RESTART)]
)
async def test_a_change_that_needs_a_restart_is_refused_by_name(name: str) -> None:
    app = create_app(settings())
    services: Services = app.state.services
    before = services.settings
    with pytest.raises(ConfigurationError, match=name.replace(".", r"\.")):
        await apply_settings(services, changed(before, name))
    assert services.settings is before


def error_of(answer: httpx.Response) -> Json:
    error: Json = answer.json()["error"]
    return error


async def test_the_server_starts_until_the_sources_of_models_were_asked_and_then_says_that_it_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def scan(self: Discovery, servers: object) -> tuple[Listing, ...]:
        asked.set()
        await answer.wait()
        return ()

    def absent(self: Availability, models: tuple[Model, ...]) -> dict[str, Block]:
        return {model.id: Block("not_pulled", "it is not here") for model in models if model.local}

    monkeypatch.setattr(Discovery, "scan", scan)
    monkeypatch.setattr(Availability, "look", absent)  # a voice comes with its package
    app = create_app(settings(data_dir=tmp_path), open_runtime=open_runtime)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        await asked.wait()
        starting = await client.get("/ready")
        assert (starting.status_code, starting.headers["retry-after"]) == (503, "1")
        answer.set()
        with capture_logs() as logs:
            async with asyncio.timeout(30):
                while (told := error_of(await client.get("/ready")))["code"] == "service_unavailable":
                    await asyncio.sleep(0)
        assert not [each for each in logs if each["event"] == "request refused"], "probes come every second"
        assert told["code"] == "no_models", "starting and empty are two things"
        assert "roundhouse pull starter" in told["message"]
        assert (await client.get("/health")).json() == {"status": "ok"}, "an empty server is no dead one"


async def test_a_source_of_models_that_does_not_answer_delays_readiness_for_a_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scan(self: Discovery, servers: object) -> tuple[Listing, ...]:
        await asyncio.Event().wait()
        return ()

    monkeypatch.setattr(Discovery, "scan", scan)
    monkeypatch.setattr(Discovery, "first_scan_timeout", 0.01)
    app = create_app(settings(data_dir=tmp_path), open_runtime=open_runtime)
    async with app.router.lifespan_context(app):
        runtime = app.state.services.runtime
        async with asyncio.timeout(30):
            while not runtime.looked():
                await asyncio.sleep(0.01)


async def test_a_scan_that_raises_is_logged_and_the_next_one_finds_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logs: io.StringIO
) -> None:
    source = PathSource(path="/late.gguf")
    row = Model(id="late", capabilities=frozenset({Capability.CHAT}), source=source, origin="discovered")
    scans = 0

    async def scan(self: Discovery, servers: object) -> tuple[Listing, ...]:
        nonlocal scans
        scans += 1
        if scans == 1:
            raise ZeroDivisionError
        return (Listing(str(tmp_path), (row,)),)

    merging: list[int] = []

    def merge(*arguments: Any) -> Catalog:
        merging.append(threading.get_ident())
        return merged(*arguments)

    monkeypatch.setattr(Discovery, "scan", scan)
    monkeypatch.setattr(catalog_updates, "merged", merge)
    found = {"discovery": {"interval": 0.01, "folders": [str(tmp_path)]}}
    app = create_app(settings(data_dir=tmp_path, **found), open_runtime=open_runtime)
    async with app.router.lifespan_context(app), asyncio.timeout(30):
        while app.state.services.runtime.catalog.get("late") is None:
            await asyncio.sleep(0.01)
        while not app.state.services.runtime.looked():
            await asyncio.sleep(0.01)
    assert "discovery failed" in logs.getvalue()
    assert merging
    assert threading.get_ident() not in merging, "the catalogue is made off the event loop"


async def test_an_excluded_endpoint_is_kept_out_and_an_unknown_exclusion_is_refused(running: Running) -> None:
    transport = httpx.ASGITransport(app=running.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

        async def routed(name: str) -> httpx.Response:
            body = {"messages": [{"role": "user", "content": "a"}], "routing": {"exclude": [name]}}
            return await client.post("/v1/route", json=body)

        left = {each["model"] for each in (await routed("one")).json()["candidates"]}
        assert "two" in left
        assert "one" not in left
        left = {each["model"] for each in (await routed("lab")).json()["candidates"]}
        assert left.isdisjoint({"one", "two"})
        refused = await routed("nonsense")
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "routing.exclude"


async def test_a_lowered_spend_cap_holds_at_once(running: Running) -> None:
    assert running.runtime.spend.headroom("someone") is None
    assert await running.reload(spend={"caps": {"day": 0.5}, "per_key": {"day": 0.25}}) == [
        "spend.caps.day",
        "spend.per_key.day",
    ]
    assert running.runtime.spend.headroom("someone") == 0.25
    await running.reload(spend={"caps": {"day": 0.1}})
    assert running.runtime.spend.headroom("someone") == 0.1


async def test_the_preferred_model_changes(running: Running) -> None:
    assert running.first() == "one"
    await running.reload(routing={"preferred": {"chat": "two"}})
    assert running.first() == "two"


async def test_breakers_open_by_the_new_threshold_also_for_a_model_called_before(
    running: Running,
) -> None:
    insight = running.runtime.insight
    assert insight is not None
    row = running.runtime.catalog.resolve("one")

    def fail() -> CircuitState:
        failure = replace(outcome(Result.FAILED), model="one", endpoint="lab")
        running.runtime.dispatcher._record(failure)  # type: ignore[attr-defined]
        return insight.circuit(row)

    assert fail() is CircuitState.CLOSED
    await running.reload(breakers={"consecutive_failures": 2})
    assert fail() is CircuitState.OPEN


async def test_a_folder_of_models_is_found_after_a_reload_and_lost_after_another(
    running: Running, tmp_path: Path
) -> None:
    folder = tmp_path / "gguf"
    folder.mkdir()
    (folder / "Tiny-Q4_K_M.gguf").write_bytes(chat_model())

    async def has(expected: bool) -> None:
        async with asyncio.timeout(30):
            while any(row.id == "tiny-q4_k_m" for row in running.runtime.catalog) is not expected:
                await asyncio.sleep(0.01)

    await running.reload(discovery={"folders": [str(folder)]})
    await has(True)
    await running.reload()
    await has(False)


async def test_a_preferred_model_that_no_source_lists_is_warned_of(tmp_path: Path, logs: io.StringIO) -> None:
    found = {"discovery": {"folders": [str(tmp_path)]}, "routing": {"preferred": {"chat": "smollm2-135m-instrct"}}}
    app = create_app(settings(data_dir=tmp_path, **found), open_runtime=open_runtime)
    async with app.router.lifespan_context(app), asyncio.timeout(30):
        while "preferred model is unknown" not in logs.getvalue():
            await asyncio.sleep(0.01)
    assert "routing.preferred.chat" in logs.getvalue()
    assert "smollm2-135m-instruct" in logs.getvalue()


HELD: dict[str, tuple[dict[str, Any], Callable[[Any], Any]]] = {
    "retries": ({"minimum": 3}, lambda dispatcher: dispatcher._retries._settings),
    "traces": ({"capacity": 3}, lambda dispatcher: dispatcher._traces._settings),
    "persistence": ({"interval": 3}, lambda dispatcher: dispatcher._batched._sinks[1]._settings),
    "backends": ({"idle_timeout": 3}, lambda dispatcher: dispatcher._leases._timeouts),
}


@pytest.mark.parametrize("section", HELD)
async def test_a_part_behind_the_gate_holds_the_settings_in_force(running: Running, section: str) -> None:
    change, held = HELD[section]
    [(name, value)] = change.items()
    assert await running.reload(**{section: change}) == [f"{section}.{name}"]
    assert getattr(held(running.runtime.dispatcher), name.removesuffix("_timeout")) == value
    assert attrgetter(f"{section}.{name}")(running.services.settings) == value


async def test_the_report_shows_the_settings_in_force_without_secrets(running: Running) -> None:
    await running.reload(spend={"caps": {"day": 0.5}}, api_keys="a-secret-key")
    shown = report(running.runtime, running.services.settings, lag=0)["settings"]
    assert shown["spend"]["caps"]["day"] == 0.5
    assert "a-secret-key" not in str(shown)
