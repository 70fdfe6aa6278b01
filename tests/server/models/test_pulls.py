"""Pulls in the background: joined, followed, cancelled, resumed, and in force once complete."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import suppress
from threading import Event
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from catalog.types import Json
from routing.state.records import Record
from tests.fakes.gguf import chat_model
from tests.fakes.hub import FakeHub, Repository
from tests.server.models.conftest import ADDRESS, FILE, REPOSITORY, TINY, OpenShop, PeerOf, Shop
from tests.server.test_bad_input import error

PULLS = "/v1/models/pulls"


def events(text: str) -> list[Json]:
    """The data of a stream's events; its last one must be ``[DONE]``."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def half_way(shop: Shop, hub: FakeHub, **more: str) -> Json:
    """Begin a pull that stops in the middle of the file, and wait until it is there."""
    hub.gates[FILE] = Event()
    await shop.client.post(PULLS, json={"model": ADDRESS, **more})
    return await shop.fetching()


async def test_the_progress_is_streamed_and_the_model_is_in_force_at_its_end(shop: Shop) -> None:
    answer = await shop.client.post(PULLS, json={"model": ADDRESS, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = events(answer.text)
    last = told[-1]
    assert (last["status"], last["models"], last["error"]) == ("completed", ["tiny-q4_k_m"], None)
    assert last["completed_bytes"] == last["total_bytes"] > 3_000_000
    assert "tiny-q4_k_m" in await shop.listed("local=true")
    again = (await shop.client.get(f"{PULLS}/{last['id']}?stream=true")).text
    assert events(again) == [last]
    listed = (await shop.client.get(PULLS)).json()
    assert (listed["data"], listed["has_more"]) == ([last], False)
    chat = {"model": "tiny-q4_k_m", "messages": [{"role": "user", "content": "Hello"}]}
    assert (await shop.client.post("/v1/chat/completions", json=chat)).status_code == 200


async def test_a_window_beyond_the_models_own_is_refused_before_anything_is_loaded(shop: Shop) -> None:
    begun = (await shop.client.post(PULLS, json={"model": ADDRESS})).json()
    (model,) = (await shop.ended(begun["id"]))["models"]
    path = f"/v1/models/{model}/load"
    too_long: list[Json] = [{"context": 2**31 - 1}, {"context": 8193}, {"options": {"context": 8193}}]
    for body in too_long:
        refused = await shop.client.post(path, json=body)
        error(refused, 400, "invalid_request")
        assert refused.json()["error"]["param"] == "context"
        assert "8192 tokens at most" in refused.json()["error"]["message"]
    assert (await shop.client.get(f"/v1/models/{model}")).json()["loaded"] is False
    for body in ({"context": 8192}, {"context": 16_384, "options": {"rope_freq_scale": 0.5}}):
        assert (await shop.client.post(path, json=body)).status_code == 200


async def test_a_row_of_ones_own_may_be_loaded_with_a_longer_window_than_it_names(shop: Shop) -> None:
    await shop.client.post("/v1/models", json={**TINY, "limits": {"context_window": 1024}})
    begun = (await shop.client.post(PULLS, json={"model": "tiny"})).json()
    await shop.ended(begun["id"])
    assert (await shop.client.post("/v1/models/tiny/load", json={"context": 2048})).status_code == 200


async def test_the_files_of_a_registered_row_make_it_ready(shop: Shop) -> None:
    await shop.client.post("/v1/models", json=TINY)
    begun = (await shop.client.post(PULLS, json={"model": "tiny"})).json()
    assert (await shop.ended(begun["id"]))["models"] == ["tiny"]
    assert (await shop.client.get("/v1/models/tiny")).json()["available"] is True
    gone = (await shop.client.delete("/v1/models/tiny")).json()
    assert gone["freed"] == 0
    assert "files stay" in gone["note"]
    await shop.client.post("/v1/models", json=TINY)
    assert (await shop.client.get("/v1/models/tiny")).json()["available"] is True, "they are still there"
    gone = (await shop.client.delete("/v1/models/tiny?files=true")).json()
    assert gone["freed"] > 3_000_000
    assert "tiny" not in await shop.listed()
    assert not list(shop.store.root.rglob("*.gguf"))


async def test_a_repositorys_model_may_have_a_name_of_the_callers(shop: Shop) -> None:
    begun = (await shop.client.post(PULLS, json={"model": ADDRESS, "name": "mine"})).json()
    assert (await shop.ended(begun["id"]))["models"] == ["mine"]
    assert "mine" in await shop.listed()
    deleted = (await shop.client.delete("/v1/models/mine?files=true")).json()
    assert deleted["freed"] > 3_000_000
    assert "mine" not in await shop.listed()


CLOUD: Json = {"kind": "upstream", "endpoint": "cloud", "model": "paid"}
PAID: Json = {
    "endpoint": [{"id": "cloud", "base_url": "http://127.0.0.1:9/v1"}],
    "model": [
        {
            "id": "paid",
            "capabilities": ["chat"],
            "source": CLOUD,
        }
    ],
}


@pytest.mark.parametrize("taken", ["paid", "PAID", "gpt-4o", "smollm2-135m-instruct", "theirs"])
async def test_a_pull_takes_the_name_of_no_other_model(open_shop: OpenShop, hub: FakeHub, taken: str) -> None:
    hub.repositories["other/Other-GGUF"] = Repository({"Other-Q4_K_M.gguf": chat_model()})
    async with open_shop(**PAID) as shop:
        begun = (await shop.client.post(PULLS, json={"model": "hub:other/Other-GGUF", "name": "theirs"})).json()
        assert (await shop.ended(begun["id"]))["models"] == ["theirs"]
        before = (await shop.client.get(f"/v1/models/{taken}")).json()
        asked = len(hub.requests)
        refused = await shop.client.post(PULLS, json={"model": ADDRESS, "name": taken})
        error(refused, 400, "invalid_request")
        assert refused.json()["error"]["param"] == "name"
        assert (await shop.client.get(f"/v1/models/{taken}")).json() == before
        assert len(hub.requests) == asked


async def test_a_pull_without_a_name_leaves_a_row_of_its_default_id_as_it_is(open_shop: OpenShop) -> None:
    paid = {**PAID, "model": [{**PAID["model"][0], "id": "tiny-q4_k_m"}]}
    async with open_shop(**paid) as shop:
        begun = (await shop.client.post(PULLS, json={"model": ADDRESS})).json()
        assert (await shop.ended(begun["id"]))["models"] == ["tiny/tiny-q4_k_m"]
        card = (await shop.client.get("/v1/models/tiny-q4_k_m")).json()
        assert (card["endpoint"], card["local"]) == ("cloud", False)


async def test_repositories_with_a_file_of_one_name_have_a_model_each(shop: Shop, hub: FakeHub) -> None:
    names = ["ok/m2", "ok/m3", "ok/m4"]
    hub.repositories |= {
        name: Repository({"m-Q4_K_M.gguf": chat_model(padding=place)}) for place, name in enumerate(names)
    }
    made: dict[str, str] = {}
    for name in (*names, *reversed(names)):
        begun = (await shop.client.post(PULLS, json={"model": f"hf.co/{name}"})).json()
        (model,) = (await shop.ended(begun["id"]))["models"]
        assert made.setdefault(name, model) == model, "the second pull of a repository is the same model's"
    assert made == {"ok/m2": "m-q4_k_m", "ok/m3": "ok/m-q4_k_m", "ok/m4": "ok/m4-m-q4_k_m"}
    for name, model in made.items():
        assert (await shop.client.get(f"/v1/models/{name}")).json()["id"] == model


async def test_files_of_one_name_in_two_folders_of_a_repository_are_two_models(shop: Shop, hub: FakeHub) -> None:
    files = {"a/m-Q4_K_M.gguf": chat_model(), "b/m-Q4_K_M.gguf": chat_model(padding=9)}
    hub.repositories["ok/m"] = Repository(files)
    made = []
    for file in files:
        begun = (await shop.client.post(PULLS, json={"model": f"hub:ok/m:{file}"})).json()
        made += (await shop.ended(begun["id"]))["models"]
    assert made == ["m-q4_k_m", "ok/m-q4_k_m"]


async def test_a_second_pull_of_the_same_joins_the_first(shop: Shop, hub: FakeHub) -> None:
    first = await half_way(shop, hub)
    second = (await shop.client.post(PULLS, json={"model": ADDRESS})).json()
    assert second["id"] == first["id"]
    hub.gates[FILE].set()
    assert (await shop.ended(first["id"]))["status"] == "completed"
    assert hub.downloads(FILE) == [None], "the file was fetched once"
    third = (await shop.client.post(PULLS, json={"model": ADDRESS})).json()
    assert third["id"] != first["id"]
    assert (await shop.ended(third["id"]))["status"] == "completed"
    assert hub.downloads(FILE) == [None], "it is here"


async def test_two_models_of_one_file_fetch_it_once(shop: Shop, hub: FakeHub) -> None:
    await shop.client.post("/v1/models", json=TINY)
    first = await half_way(shop, hub)
    second = (await shop.client.post(PULLS, json={"model": "tiny"})).json()
    assert second["id"] != first["id"]
    hub.gates[FILE].set()
    ended = [await shop.ended(each["id"]) for each in (first, second)]
    assert [each["models"] for each in ended] == [["tiny-q4_k_m"], ["tiny"]]
    assert hub.downloads(FILE) == [None]
    await shop.client.delete("/v1/models/tiny?files=true")
    assert (await shop.client.get("/v1/models/tiny-q4_k_m")).json()["available"], "the other one's file stays"


async def test_a_pull_goes_on_without_its_client(shop: Shop, hub: FakeHub) -> None:
    hub.gates[FILE] = Event()
    asking = asyncio.create_task(shop.client.post(PULLS, json={"model": ADDRESS, "stream": True}))
    begun = await shop.fetching()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (await shop.client.get(f"{PULLS}/{begun['id']}")).json()["status"] == "in_progress"
    hub.gates[FILE].set()
    assert (await shop.ended(begun["id"]))["status"] == "completed"


async def test_a_cancelled_pull_is_resumed_by_the_next(shop: Shop, hub: FakeHub) -> None:
    begun = await half_way(shop, hub)
    cancelled = (await shop.client.post(f"{PULLS}/{begun['id']}/cancel")).json()
    assert cancelled["status"] == "cancelled"
    error(await shop.client.post(f"{PULLS}/{begun['id']}/cancel"), 400, "invalid_request")
    hub.gates.pop(FILE).set()
    assert "tiny-q4_k_m" not in await shop.listed()
    again = (await shop.client.post(PULLS, json={"model": ADDRESS})).json()
    assert (await shop.ended(again["id"]))["status"] == "completed"
    resumed = hub.downloads(FILE)[1:]
    assert all(ranges is not None for ranges in resumed), "it went on from the bytes on disk"


async def test_a_pull_goes_on_after_a_restart(open_shop: OpenShop, hub: FakeHub) -> None:
    async with open_shop() as shop:
        begun = await half_way(shop, hub)
    hub.gates.pop(FILE).set()
    async with open_shop() as shop:
        ended = await shop.ended(begun["id"])
        assert (ended["status"], ended["models"]) == ("completed", ["tiny-q4_k_m"])
        assert ended["completed_bytes"] == ended["total_bytes"]
        assert "tiny-q4_k_m" in await shop.listed()


async def test_other_gateways_follow_a_pull_and_have_its_model(open_shop: OpenShop, hub: FakeHub) -> None:
    async with open_shop() as here, open_shop() as there:
        here.runtime.peers, there.runtime.peers = PeerOf(there), PeerOf(here)
        begun = await half_way(here, hub)
        following = asyncio.create_task(there.client.get(f"{PULLS}/{begun['id']}?stream=true"))
        hub.gates[FILE].set()
        assert events((await following).text)[-1]["status"] == "completed"
        assert "tiny-q4_k_m" in await there.listed()


async def test_a_pull_that_fails_says_why(shop: Shop) -> None:
    begun = (await shop.client.post(PULLS, json={"model": "hub:no/such"})).json()
    ended = await shop.ended(begun["id"])
    assert ended["status"] == "failed"
    assert ended["error"]["code"] == "pull_failed"
    assert "no repository no/such" in ended["error"]["message"]


async def test_the_disk_is_checked_before_the_first_byte(
    shop: Shop, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(total=10**9, used=10**9 - 10**6, free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    begun = (await shop.client.post(PULLS, json={"model": ADDRESS})).json()
    ended = await shop.ended(begun["id"])
    assert ended["error"]["code"] == "insufficient_storage"
    assert "roundhouse rm" in ended["error"]["message"]
    assert hub.downloads(FILE) == []
    line = (await shop.client.post("/api/pull", json={"model": ADDRESS, "stream": False})).json()
    assert "needs" in line["error"]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "model"),
        ({"model": "no-such-model"}, 404, "model"),
        ({"model": "../../etc/passwd"}, 400, "model"),
        ({"model": "hub:nothing"}, 400, "model"),
        ({"model": ADDRESS, "name": "../x"}, 400, "name"),
        ({"model": ADDRESS, "name": "a/../x"}, 400, "name"),
        ({"model": ADDRESS, "name": "x/../y"}, 400, "name"),
        ({"model": ADDRESS, "name": "auto"}, 400, "name"),
        ({"model": ADDRESS, "name": "auto:fast"}, 400, "name"),
        ({"model": ADDRESS, "name": "pulls"}, 400, "name"),
        ({"model": ADDRESS, "name": "Pulls/x"}, 400, "name"),
        ({"model": "starter", "name": "x"}, 400, "name"),
        ({"model": "smollm2-135m-instruct", "name": "x"}, 400, "name"),
        ({"model": ADDRESS, "revision": "../x"}, 400, "revision"),
        ({"model": ADDRESS, "stream": "yes"}, 400, "stream"),
    ],
)
async def test_a_wrong_pull_is_refused_at_once(shop: Shop, body: Json, status: int, param: str) -> None:
    refused = await shop.client.post(PULLS, json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (status, param)
    assert (await shop.client.get(PULLS)).json()["data"] == []


async def test_an_unknown_pull_is_not_found(shop: Shop) -> None:
    asked: list[httpx.Response] = [
        await shop.client.get(f"{PULLS}/pull_x"),
        await shop.client.get(f"{PULLS}/pull_x?stream=true"),
        await shop.client.post(f"{PULLS}/pull_x/cancel"),
    ]
    for answer in asked:
        error(answer, 404, "not_found")


async def test_only_files_of_this_machine_can_be_deleted_of_a_model_that_was_not_registered(shop: Shop) -> None:
    begun = (await shop.client.post(PULLS, json={"model": ADDRESS})).json()
    await shop.ended(begun["id"])
    refused = await shop.client.delete("/v1/models/tiny-q4_k_m?files=false")
    error(refused, 404, "not_found")
    assert refused.json()["error"]["param"] == "files"
    assert "tiny-q4_k_m" in await shop.listed()


async def test_gateways_that_are_asked_for_one_pull_at_once_share_it(
    open_shop: OpenShop, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gates[FILE] = Event()
    async with open_shop() as here, open_shop() as there:
        storage, both_looked = here.runtime.storage, asyncio.Event()
        keep, looked = storage.keep, there.runtime.storage.new

        async def late(record: Record) -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await both_looked.wait()
            await keep(record)

        def new(*args: Any, **more: Any) -> Record:
            both_looked.set()
            return looked(*args, **more)

        monkeypatch.setattr(storage, "keep", late)
        monkeypatch.setattr(there.runtime.storage, "new", new)
        begun = await asyncio.gather(
            *(shop.client.post(PULLS, json={"model": ADDRESS}) for _ in range(2) for shop in (here, there))
        )
        assert len({answer.json()["id"] for answer in begun}) == 1
        (pull,) = (await there.client.get(PULLS)).json()["data"]
        hub.gates[FILE].set()
        assert (await here.ended(pull["id"]))["status"] == "completed"


async def test_the_files_of_a_row_of_the_settings_are_deleted_on_demand_alone(open_shop: OpenShop) -> None:
    async with open_shop(model=[{**TINY, "source": {"kind": "hub", "repository": REPOSITORY}}]) as shop:
        begun = (await shop.client.post(PULLS, json={"model": "tiny"})).json()
        await shop.ended(begun["id"])
        refused = await shop.client.delete("/v1/models/tiny")
        error(refused, 400, "invalid_request")
        assert refused.json()["error"]["param"] == "files"
        assert (await shop.client.get("/v1/models/tiny")).json()["downloaded"] is True
        gone = (await shop.client.delete("/v1/models/tiny?files=true")).json()
        assert gone["freed"] > 3_000
        assert (await shop.client.get("/v1/models/tiny")).json()["downloaded"] is False
