"""A model that is known and not here: named in an error, or fetched on its first use."""

from __future__ import annotations

import asyncio
from threading import Event
from typing import Any

from catalog.types import Json
from server.models.pulls import ENDED
from tests.fakes.gguf import chat_model
from tests.fakes.hub import FakeHub, Repository
from tests.server.models.conftest import FILE, TINY, OpenShop, Shop
from tests.server.test_bad_input import error

CHAT: Json = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}
ON: Any = {"models": {"pull_on_use": True}}


async def registered(shop: Shop, **changes: Any) -> None:
    assert (await shop.client.post("/v1/models", json={**TINY, **changes})).status_code == 200


async def test_without_the_setting_the_error_names_the_command(shop: Shop, hub: FakeHub) -> None:
    await registered(shop)
    for stream in (False, True):
        refused = await shop.client.post("/v1/chat/completions", json={**CHAT, "stream": stream})
        error(refused, 404, "model_unavailable")
        assert "roundhouse pull tiny" in refused.json()["error"]["message"]
    assert hub.requests == []


async def test_the_first_use_fetches_it_with_its_progress_in_the_stream(open_shop: OpenShop) -> None:
    async with open_shop(**ON) as shop:
        await registered(shop)
        streamed = await shop.client.post("/v1/chat/completions", json={**CHAT, "stream": True})
        assert streamed.status_code == 200
        assert streamed.text.startswith(": pulling tiny")
        assert streamed.text.rstrip().endswith("data: [DONE]")
        assert '"content":"tiny:0' in streamed.text.replace(" ", "")
        plain = await shop.client.post("/v1/chat/completions", json=CHAT)
        assert plain.json()["model"] == "tiny"
        assert len((await shop.client.get("/v1/models/pulls")).json()["data"]) == 1


async def test_many_first_uses_share_one_pull(open_shop: OpenShop, hub: FakeHub) -> None:
    async with open_shop(**ON) as shop:
        await registered(shop)
        answers = await asyncio.gather(
            *(shop.client.post("/v1/chat/completions", json=CHAT) for _ in range(5)),
            shop.client.post("/v1/models/tiny/load"),
        )
        assert [answer.status_code for answer in answers] == [200] * 6
        assert hub.downloads(FILE) == [None]


async def test_keep_alive_comments_are_sent_while_it_is_fetched(open_shop: OpenShop, hub: FakeHub) -> None:
    hub.gates[FILE] = Event()
    streams = {"server": {"streams": {"headers_after": 0.05, "ping": 0.05}}}
    async with open_shop(**ON, **streams) as shop:
        await registered(shop)
        asking = asyncio.create_task(shop.client.post("/v1/chat/completions", json={**CHAT, "stream": True}))
        await shop.fetching()
        hub.gates[FILE].set()
        comments = [line for line in (await asking).text.splitlines() if line.startswith(":")]
        assert comments[0].startswith(": pulling tiny")
        assert ": keep-alive" in comments
        assert (await asking).text.rstrip().endswith("data: [DONE]")


async def test_a_pull_that_failed_is_not_tried_at_once_again(open_shop: OpenShop, hub: FakeHub) -> None:
    async with open_shop(**ON) as shop:
        await registered(shop, source="hub:no/such")
        refused = await shop.client.post("/v1/chat/completions", json=CHAT)
        error(refused, 404, "model_unavailable")
        assert "no repository no/such" in refused.json()["error"]["message"]
        asked = len(hub.requests)
        again = await shop.client.post("/v1/chat/completions", json=CHAT)
        assert again.json() == refused.json()
        assert len(hub.requests) == asked


async def test_a_reload_of_the_settings_turns_it_on(open_shop: OpenShop) -> None:
    async with open_shop() as shop:
        await registered(shop)
        error(await shop.client.post("/v1/chat/completions", json=CHAT), 404, "model_unavailable")
        await shop.reload(**ON)
        assert (await shop.client.post("/v1/chat/completions", json=CHAT)).status_code == 200


async def test_auto_and_unknown_models_fetch_nothing(open_shop: OpenShop, hub: FakeHub) -> None:
    async with open_shop(**ON) as shop:
        await registered(shop)
        assert (await shop.client.post("/v1/chat/completions", json={**CHAT, "model": "auto"})).status_code == 400
        unknown = {**CHAT, "model": "hf.co/tiny/Tiny-GGUF:Q8_0"}
        error(await shop.client.post("/v1/chat/completions", json=unknown), 404, "model_not_found")
        assert hub.requests == []


SMALL = "bartowski/SmolLM2-360M-Instruct-GGUF"


async def test_a_model_that_the_curated_catalogue_knows_is_fetched_by_its_short_name(
    open_shop: OpenShop, hub: FakeHub
) -> None:
    files = {f"SmolLM2-360M-Instruct-{name}.gguf": chat_model() for name in ("Q4_K_M", "Q8_0")}
    hub.repositories[SMALL] = Repository(files)
    asked: Json = {**CHAT, "model": "smollm2:360m"}
    async with open_shop() as shop:
        refused = await shop.client.post("/v1/chat/completions", json=asked)
        assert "Pull it with: roundhouse pull smollm2-360m" in error(refused, 404, "model_not_found")["message"]
        assert hub.requests == []
    async with open_shop(**ON) as shop:
        answer = await shop.client.post("/v1/chat/completions", json=asked)
        assert answer.json()["model"] == "smollm2-360m"
        spelled = await shop.client.post("/v1/chat/completions", json={**CHAT, "model": "smol_lm2 360m"})
        error(spelled, 404, "model_not_found")
        assert len((await shop.client.get("/v1/models/pulls")).json()["data"]) == 1


async def test_a_model_is_pulled_by_its_short_name_over_http(open_shop: OpenShop, hub: FakeHub) -> None:
    hub.repositories[SMALL] = Repository({"SmolLM2-360M-Instruct-Q8_0.gguf": chat_model()})
    async with open_shop() as shop:
        begun = await shop.client.post("/v1/models/pulls", json={"model": "smollm2:360m"})
        assert begun.status_code in (200, 201, 202), begun.text
        name = begun.json()["id"]
        while (state := (await shop.client.get(f"/v1/models/pulls/{name}")).json())["status"] not in ENDED:
            await asyncio.sleep(0)
        assert (state["status"], state["models"]) == ("completed", ["smollm2-360m"])
        answer = await shop.client.post("/v1/chat/completions", json={**CHAT, "model": "SmolLM2-360M"})
        assert answer.json()["model"] == "smollm2-360m"
        unknown = await shop.client.post("/v1/models/pulls", json={"model": "smolm2:360m"})
        assert "'smollm2-360m'" in error(unknown, 404, "model_not_found")["message"]


async def test_nothing_is_pulled_for_a_request_that_the_model_cannot_do(open_shop: OpenShop, hub: FakeHub) -> None:
    hub.repositories[SMALL] = Repository({"SmolLM2-360M-Instruct-Q8_0.gguf": chat_model()})
    async with open_shop(**ON) as shop:
        await registered(shop)
        for name in ("tiny", "smollm2:360m"):
            refused = await shop.client.post("/v1/embeddings", json={"model": name, "input": "Hello"})
            error(refused, 400, "model_capability_mismatch")
        assert hub.requests == []
        assert (await shop.client.get("/v1/models/pulls")).json()["data"] == []
        text = {"model": "smollm2:360m", "prompt": "Hello"}
        assert (await shop.client.post("/v1/completions", json=text)).status_code == 200
