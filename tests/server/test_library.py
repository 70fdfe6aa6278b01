"""Pulling and deleting models while the server runs, from a fake hub."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from ollama import ResponseError
from openai.types import ModelDeleted

from catalog.catalog import Catalog
from catalog.model import Model
from catalog.store.hub import Hub
from catalog.store.progress import PullEvent, Stage
from catalog.store.store import Store
from catalog.types import Json
from server.app import create_app
from server.assembly import open_runtime
from server.library import Library, _Pulling, pull_into
from server.peers import announce_models, answer_peer
from server.runtime import Runtime
from server.settings import Settings
from tests.backends.workers.conftest import fake_engines
from tests.fakes.gguf import chat_model
from tests.fakes.hub import FakeHub, Repository, serve
from tests.server.api.test_ollama import client as sdk
from tests.server.conftest import Gateway, Start
from tests.server.test_bad_input import error

REPOSITORY = "tiny/Tiny-GGUF"
FILE = "Tiny-Q4_K_M.gguf"
NAME = f"hf.co/{REPOSITORY}:Q4_K_M"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    files = {FILE: chat_model(padding=3_000_000), "Tiny-Q8_0.gguf": chat_model(padding=9)}
    with serve(FakeHub({REPOSITORY: Repository(files)})) as running:
        yield running


@dataclass
class Shop:
    """A complete gateway over an empty store and the fake hub."""

    client: httpx.AsyncClient
    runtime: Runtime
    store: Store

    async def listed(self) -> set[str]:
        return {row["id"] for row in (await self.client.get("/v1/models?all=true")).json()["data"]}


@pytest.fixture
async def shop(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shop]:
    monkeypatch.setattr("server.assembly.Store", lambda root: Store(root, hub=Hub(hub.address)))
    async with opened(tmp_path) as running:
        yield running


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Shop]:
    settings = Settings.model_validate({"data_dir": folder, "log": {"access": False}})
    app = create_app(settings, open_runtime=partial(open_runtime, engines=fake_engines()))
    async with app.router.lifespan_context(app):
        runtime: Runtime = app.state.services.runtime
        assert runtime.library is not None
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30) as client:
            yield Shop(client, runtime, runtime.library._store)


def lines(text: str) -> list[Json]:
    return [json.loads(line) for line in text.splitlines()]


async def test_a_pulled_model_is_in_force_at_once_and_gone_when_it_is_deleted(shop: Shop) -> None:
    answer = await shop.client.post("/api/pull", json={"model": NAME})
    assert answer.headers["content-type"] == "application/x-ndjson"
    told = lines(answer.text)
    assert told[0] == {"status": "pulling manifest"}
    assert told[-1] == {"status": "success"}
    counts = [line for line in told if "digest" in line or "total" in line]
    assert counts[-1]["completed"] == counts[-1]["total"] > 3_000_000
    assert "tiny-q4_k_m" in await shop.listed()
    assert (await shop.client.post("/api/show", json={"model": NAME})).json()["details"]["format"] == "gguf"
    assert (await shop.client.get("/v1/models/tiny-q4_k_m")).json()["downloaded"] is True
    again = await shop.client.post("/api/pull", json={"name": NAME, "stream": False, "insecure": True})
    assert again.json() == {"status": "success"}
    gone = await shop.client.request("DELETE", "/api/delete", json={"model": NAME})
    assert (gone.status_code, gone.content) == (200, b"")
    assert "tiny-q4_k_m" not in await shop.listed()
    error(await shop.client.delete("/v1/models/tiny-q4_k_m"), 404, "model_not_found")


async def test_openais_way_to_delete_a_model(shop: Shop) -> None:
    await shop.client.post("/api/pull", json={"model": NAME, "stream": False})
    gone = (await shop.client.delete("/v1/models/tiny-q4_k_m")).json()
    told = ModelDeleted.model_validate(gone)
    assert (told.id, told.object, told.deleted) == ("tiny-q4_k_m", "model", True)
    assert gone["freed"] > 3_000_000
    assert "note" not in gone
    assert shop.store.list() == ()


async def test_a_built_in_row_stays_when_its_files_are_deleted(shop: Shop) -> None:
    row = shop.runtime.catalog.resolve("smollm2-135m-instruct")
    error(await shop.client.delete(f"/v1/models/{row.id}"), 404, "model_unavailable")
    pretend_pulled(shop.store, row)
    gone = (await shop.client.delete(f"/v1/models/{row.id}")).json()
    assert gone["freed"] == 4
    assert f"roundhouse pull {row.id}" in gone["note"]
    assert row.id in await shop.listed()


def pretend_pulled(store: Store, row: Model) -> None:
    """Put a finished model into the store that has one file of four bytes."""
    from catalog.store import manifest

    file = store.root / "files" / "x" / "model.gguf"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"GGUF")
    made = manifest.Manifest(
        id=row.id,
        fingerprint=manifest.fingerprint(row),
        entry="files/x/model.gguf",
        files={"files/x/model.gguf": manifest.StoredFile(size=4, sha256="0" * 64)},
    )
    manifest.write(store._row(row.id), made)


async def test_what_was_not_pulled_is_not_deleted(gateway: Gateway, tmp_path: Path) -> None:
    runtime = gateway.services.runtime
    assert runtime is not None
    error(await gateway.client.delete("/v1/models/parrot"), 404, "not_found")
    runtime.library = Library(
        Store(tmp_path), lambda: runtime.catalog, gateway.pool, look=no_change, announce=no_change
    )
    for name, why in (("parrot", "part of an installed package"), ("cloud/oracle", "served by another server")):
        refused = await gateway.client.delete(f"/v1/models/{name}")
        error(refused, 400, "invalid_request")
        assert why in refused.json()["error"]["message"]
    assert gateway.pool.forced == [], "nothing was unloaded"


async def no_change() -> None:
    return None


async def test_pulling_and_deleting_need_an_admin_key(start: Start) -> None:
    async with start(api_keys="user", admin_keys="admin") as gateway:
        user = {"authorization": "Bearer user"}
        for method, path in (("POST", "/api/pull"), ("DELETE", "/api/delete"), ("DELETE", "/v1/models/parrot")):
            answer = await gateway.client.request(method, path, json={"model": "parrot"}, headers=user)
            assert answer.status_code == 403, path


async def test_a_wrong_name_is_refused_before_the_pull_and_a_missing_repository_in_its_lines(shop: Shop) -> None:
    for name, status in (("hf.co/nothing", 400), ("no-such-model", 404), ("../../etc/passwd", 400)):
        refused = await shop.client.post("/api/pull", json={"model": name})
        assert refused.status_code == status, name
        assert isinstance(refused.json()["error"], str)
    told = lines((await shop.client.post("/api/pull", json={"model": "hf.co/no/such"})).text)
    assert "no repository no/such" in told[-1]["error"]
    plain = await shop.client.post("/api/pull", json={"model": "hf.co/no/such", "stream": False})
    assert plain.status_code == 502


async def test_the_sdk_reports_a_pull_and_its_failure(hub: FakeHub, serve: Start, tmp_path: Path) -> None:
    async with serve() as gateway, sdk(gateway) as asked:
        runtime = gateway.services.runtime
        assert runtime is not None
        store = Store(tmp_path / "models", hub=Hub(hub.address))
        pool: Any = EmptyPool()  # whose devices have no bound
        runtime.library = Library(store, lambda: runtime.catalog, pool, look=no_change, announce=no_change)
        told = [line async for line in await asked.pull(NAME, stream=True)]
        assert told[-1].status == "success"
        assert (await asked.pull(NAME)).status == "success"
        with pytest.raises(ResponseError, match="no repository"):
            [line async for line in await asked.pull("hf.co/no/such", stream=True)]


async def test_a_pull_by_another_process_is_noticed(shop: Shop, hub: FakeHub) -> None:
    store = Store(shop.store.root, hub=Hub(hub.address))
    await asyncio.to_thread(pull_into, store, shop.runtime.catalog, f"hub:{REPOSITORY}:Q8_0", lambda _: None)
    assert "tiny-q8_0" not in await shop.listed()
    assert shop.runtime.library is not None
    await shop.runtime.library.look()  # what the look at the disk does every few seconds
    assert "tiny-q8_0" in await shop.listed()
    await asyncio.to_thread(store.remove, "tiny-q8_0")
    await shop.runtime.library.look()
    assert "tiny-q8_0" not in await shop.listed()


async def test_every_other_process_looks_before_a_pull_has_ended(hub: FakeHub, shop: Shop) -> None:
    asked: list[Json] = []

    class Others:
        async def ask(self, question: Json) -> Any:
            asked.append(question)
            return await answer_peer(shop.runtime, question)

        async def ask_all(self, question: Json) -> list[Any]:
            return [await self.ask(question)]

    store = Store(shop.store.root, hub=Hub(hub.address))
    here = replace(shop.runtime, peers=Others())
    library = Library(
        store,
        lambda: here.catalog,
        here.pool,
        look=no_change,
        announce=partial(announce_models, here),
    )
    async with library.pull(f"hub:{REPOSITORY}:Q8_0") as events:
        async for _ in events:
            pass
    assert asked == [{"look": True}]
    assert "tiny-q8_0" in await shop.listed(), "the other process has it"


async def test_a_client_that_leaves_stops_the_pull_and_a_later_one_resumes_it(tmp_path: Path) -> None:
    store = SlowStore(tmp_path)
    pool: Any = EmptyPool()
    library = Library(store, lambda: Catalog(own=()), pool, look=no_change, announce=no_change)
    async with library.pull("hub:a/b") as events:
        assert (await anext(events)).done == 1
    store.go.set()
    assert await asyncio.to_thread(store.ended.wait, 10)
    assert store.stopped


class EmptyPool:
    """A pool without devices."""

    def snapshot(self) -> Any:
        from backends.workers.pool import PoolSnapshot

        return PoolSnapshot()


class SlowStore(Store):
    """A pull of two events; the second one waits until it is let go."""

    def __init__(self, root: Path) -> None:
        from threading import Event

        super().__init__(root)
        self.go, self.ended = Event(), Event()
        self.stopped = False

    def pull_hub(self, address: str, progress: Any = None, **more: Any) -> Any:
        try:
            progress(PullEvent(address, Stage.DOWNLOADING, "f", 1, 2))
            assert self.go.wait(10)
            progress(PullEvent(address, Stage.DOWNLOADING, "f", 2, 2))
        except Exception:
            self.stopped = True
            raise
        finally:
            self.ended.set()


async def test_a_slow_reader_gets_the_latest_count_of_a_file() -> None:
    def work(progress: Any) -> None:
        for done in range(1000):
            progress(PullEvent("m", Stage.DOWNLOADING, "f", done, 1000))
        progress(PullEvent("m", Stage.VERIFYING, "f", 1000, 1000))

    pulling = _Pulling(work)
    while not pulling._ended:
        await asyncio.sleep(0.001)
    told = [(event.stage, event.done) async for event in pulling.events()]
    assert told == [(Stage.DOWNLOADING, 999), (Stage.VERIFYING, 1000)]
