"""The provider's account is shared by all keys: nothing is stored there, and no id reaches it for another key."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from catalog.types import Json
from server.app import create_app
from server.settings import Settings
from tests.fakes.openai import FakeOpenAI
from tests.fakes.openai_responses import message_item, text_part

ASK: Json = {"model": "gpt", "input": "One"}
OWNER, OTHER = ({"authorization": f"Bearer {name}"} for name in ("owner", "other"))


@pytest.fixture
async def fake() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as server:
        yield server


def settings_of(fake: FakeOpenAI, folder: Path, **storage: object) -> Settings:
    row = {
        "id": "far/gpt",
        "aliases": ["gpt"],
        "capabilities": ["chat", "tools", "reasoning", "documents"],
        "source": {"kind": "upstream", "endpoint": "far", "model": "fake-chat"},
    }
    end = {"id": "far", "protocol": "openai", "base_url": fake.base_url, "wire": "responses"}
    return Settings.model_validate(
        {
            "data_dir": folder,
            "api_keys": ["owner", "other"],
            "admin_keys": ["operator"],
            "endpoint": [end],
            "model": [row],
            "storage": storage,
        }
    )


@pytest.fixture
def storage() -> Json:
    return {}


@pytest.fixture
async def client(fake: FakeOpenAI, storage: Json, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings_of(fake, tmp_path, **storage))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://localhost", headers=OWNER
        ) as asking,
    ):
        yield asking


async def made(client: httpx.AsyncClient, **fields: object) -> Json:
    answer = await client.post("/v1/responses", json={**ASK, **fields})
    assert answer.status_code == 200, answer.text
    response: Json = answer.json()
    return response


async def test_a_provider_stores_nothing_and_its_id_goes_nowhere(
    client: httpx.AsyncClient, fake: FakeOpenAI
) -> None:
    for store in (True, None, False):
        response = await made(client, **({} if store is None else {"store": store}))
        assert fake.calls[-1].body["store"] is False
        assert (response["store"], response["id"] != "resp_fake") == (store is not False, True)
    chat = {"model": "gpt", "messages": [{"role": "user", "content": "Hi"}], "store": True}
    assert (await client.post("/v1/chat/completions", json=chat)).status_code == 200
    assert fake.calls[-1].body["store"] is False


async def test_reasoning_goes_round_sealed_because_nothing_is_stored(
    client: httpx.AsyncClient, fake: FakeOpenAI
) -> None:
    first = await made(client, reasoning={"effort": "low"})
    await made(client, previous_response_id=first["id"], input="Two")
    thought = next(item for item in fake.calls[-1].body["input"] if item.get("type") == "reasoning")
    assert thought["encrypted_content"]
    bare: Json = {"type": "reasoning", "id": "rs_1", "summary": []}
    answer = await client.post("/v1/responses", json={**ASK, "input": [bare, {"role": "user", "content": "Hi"}]})
    assert answer.headers["x-roundhouse-dropped"] == "input.reasoning"
    assert all(item.get("type") != "reasoning" for item in fake.calls[-1].body["input"])


@pytest.mark.parametrize("ending", ["deleted", "of another key", "unknown"])
@pytest.mark.parametrize("field", ["previous_response_id", "conversation"])
async def test_a_response_or_conversation_that_is_not_this_keys_is_never_gone_on_from(
    client: httpx.AsyncClient, fake: FakeOpenAI, field: str, ending: str
) -> None:
    path = "/v1/responses" if field == "previous_response_id" else "/v1/conversations"
    name = (await client.post(path, json=ASK if path == "/v1/responses" else {})).json()["id"]
    sent = len(fake.calls)
    if ending == "deleted":
        assert (await client.delete(f"{path}/{name}")).status_code == 200
    names = [name, "resp_fake"] if ending != "unknown" else ["resp_fake", "conv_68aa"]
    for each in names:
        keys = (OWNER, OTHER) if ending != "of another key" or each != name else (OTHER,)
        for key in keys:
            answer = await client.post("/v1/responses", json={**ASK, field: each}, headers=key)
            assert answer.status_code == (400 if path == "/v1/responses" else 404), answer.text
    assert len(fake.calls) == sent


async def test_an_item_is_referred_to_by_the_key_whose_response_has_it(
    client: httpx.AsyncClient, fake: FakeOpenAI
) -> None:
    (item,) = (await made(client))["output"]
    for reference in ({"type": "item_reference", "id": item["id"]}, {"id": item["id"]}):
        given = {**ASK, "input": [reference, {"role": "user", "content": "Two"}]}
        assert (await client.post("/v1/responses", json=given)).status_code == 200
        assert fake.calls[-1].body["input"][0] == item
        sent = len(fake.calls)
        for names in (OTHER,):
            refused = await client.post("/v1/responses", json=given, headers=names)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input")
        assert len(fake.calls) == sent


@pytest.mark.parametrize("storage", [{"store": "never"}])
async def test_where_nothing_is_stored_a_wish_to_store_is_refused(
    client: httpx.AsyncClient, fake: FakeOpenAI
) -> None:
    assert (await made(client))["store"] is False
    assert fake.calls[-1].body["store"] is False
    refused = await client.post("/v1/responses", json={**ASK, "store": True})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "store")


@pytest.mark.parametrize("storage", [{"store": "asked"}])
async def test_where_only_what_is_asked_for_is_stored_the_provider_stores_nothing_either(
    client: httpx.AsyncClient, fake: FakeOpenAI
) -> None:
    assert (await made(client))["store"] is False
    assert (await made(client, store=True))["store"] is True
    assert [call.body["store"] for call in fake.calls] == [False, False]


@pytest.mark.parametrize("stream", [False, True])
async def test_ids_that_a_provider_repeats_or_lacks_lose_no_answer(
    client: httpx.AsyncClient, fake: FakeOpenAI, *, stream: bool
) -> None:
    conversation = (await client.post("/v1/conversations", json={})).json()["id"]
    for text, name in (("A", "msg_1"), ("B", "msg_1"), ("C", None)):
        item = {**message_item([text_part((text,))]), "id": name}
        fake.output = [copy.deepcopy(item)]
        asked = {**ASK, "conversation": conversation, "stream": stream}
        assert (await client.post("/v1/responses", json=asked)).status_code == 200
    items = (await client.get(f"/v1/conversations/{conversation}/items", params={"order": "asc"})).json()["data"]
    said = [item["content"][0]["text"] for item in items]
    assert said == ["One", "A", "One", "B", "One", "C"]
    assert len({item["id"] for item in items}) == 6
    first, second = await made(client), await made(client)
    assert first["id"] != second["id"]
    for response in (first, second):
        assert (await client.get(f"/v1/responses/{response['id']}")).json() == response
