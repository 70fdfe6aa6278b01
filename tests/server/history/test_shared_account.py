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
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.openai import FakeOpenAI
from tests.fakes.openai_responses import message_item, text_part
from tests.fakes.pictures import encoded, quarters

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
        "capabilities": ["chat", "tools", "reasoning", "documents", "vision"],
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


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_response_id": "resp_fake"},
        {"conversation": "conv_1"},
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
        {"max_output_tokens": 99_999, "max_tokens": 20},
        {"text": {"verbosity": "low"}, "response_format": {"type": "json_object"}},
    ],
    ids=lambda fields: next(iter(fields)),
)
async def test_a_chat_reaches_no_field_of_the_provider_that_chats_lack(
    client: httpx.AsyncClient, fake: FakeOpenAI, fields: Json
) -> None:
    chat = {"model": "gpt", "messages": [{"role": "user", "content": "Hi"}], **fields}
    answer = await client.post("/v1/chat/completions", json=chat)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(fields)))
    assert not fake.calls


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


async def upload(client: httpx.AsyncClient, name: str, content: bytes) -> str:
    form = {"files": {"file": (name, content)}, "data": {"purpose": "user_data"}}
    answer = await client.post("/v1/files", **form)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    file_id: str = answer.json()["id"]
    return file_id


def asked_with(door: str, file_id: str, kind: str = "file") -> tuple[str, Json]:
    """A door and a request with a file."""
    if door == "chat":
        part: Json = {"type": "file", "file": {"file_id": file_id}}
        return "/v1/chat/completions", {"model": "gpt", "messages": [{"role": "user", "content": [part]}]}
    detail = {"detail": "auto"} if kind == "image" else {}
    part = {"type": f"input_{kind}", "file_id": file_id, **detail}
    return "/v1/responses", {"model": "gpt", "input": [{"role": "user", "content": [part]}]}


@pytest.mark.parametrize("door", ["chat", "responses"])
async def test_the_callers_upload_is_sent_as_data_and_another_keys_is_not_found(
    client: httpx.AsyncClient, fake: FakeOpenAI, door: str
) -> None:
    pdf = await upload(client, "a.pdf", b"%PDF-1.4 hello")
    path, body = asked_with(door, pdf)
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    (part,) = fake.calls[-1].body["input"][-1]["content"]
    data = "data:application/pdf;base64,JVBERi0xLjQgaGVsbG8="
    assert part == {"type": "input_file", "filename": "a.pdf", "file_data": data}
    sent = len(fake.calls)
    for name, key in ((pdf, OTHER), ("file-elsewhere", OWNER)):
        path, body = asked_with(door, name)
        assert (await client.post(path, json=body, headers=key)).status_code == 404
    await client.delete(f"/v1/files/{pdf}")
    path, body = asked_with(door, pdf)
    assert (await client.post(path, json=body)).status_code == 404
    assert len(fake.calls) == sent


async def test_an_uploaded_picture_is_a_picture(client: httpx.AsyncClient, fake: FakeOpenAI) -> None:
    png = await upload(client, "a.png", encoded(quarters(8, 8)))
    path, body = asked_with("responses", png, "image")
    answer = await client.post(path, json=body)
    (part,) = fake.calls[-1].body["input"][-1]["content"]
    assert (answer.status_code, part["image_url"][:22]) == (200, "data:image/png;base64,")
    (item,) = (await client.get(f"/v1/responses/{answer.json()['id']}/input_items")).json()["data"]
    assert item["content"][0]["file_id"] == png


FOUND: Json = {"type": "file_search", "vector_store_ids": ["ab_1"]}
OBJECTS: list[Json] = [
    {"prompt": {"id": "ab_1"}},
    {"tools": [{"type": "file_search", "vector_store_ids": ["ab_1"]}]},
    {"tools": [{"type": "code_interpreter", "container": "ab_1"}]},
    {"tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["ab_1"]}}]},
    {"tools": [{"type": "shell", "environment": {"type": "container_reference", "container_id": "ab_1"}}]},
    {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "ab_1"}]}]},
]
NESTED: list[Json] = [
    *(
        {"input": [{"role": "user", "content": "Hi"}, item]}
        for item in (
            {
                "type": "computer_call_output",
                "call_id": "c",
                "output": {"type": "computer_screenshot", "file_id": "ab_1"},
            },
            {"type": "additional_tools", "tools": [{"type": "code_interpreter", "container": "ab_1"}]},
            {
                "type": "tool_search_output",
                "call_id": "c",
                "tools": [{"type": "namespace", "name": "n", "tools": [FOUND]}],
            },
            {"type": "of_another_kind", "file_id": "ab_1"},
        )
    ),
    {"tools": [{"type": "namespace", "name": "n", "tools": [FOUND]}]},
    {"tools": [{"type": "image_generation", "input_image_mask": {"type": "input_image", "file_id": "ab_1"}}]},
]


@pytest.mark.parametrize("fields", NESTED)
async def test_an_object_at_the_provider_is_seen_wherever_it_is_named(
    client: httpx.AsyncClient, fake: FakeOpenAI, fields: Json
) -> None:
    refused = await client.post("/v1/responses", json={**ASK, **fields})
    assert refused.status_code in (400, 404), refused.text
    assert "for this key" in refused.text
    assert not fake.calls
    await client.post("/v1/responses", json={**ASK, **fields}, headers={"authorization": "Bearer operator"})
    assert fake.calls, "the operator's own request is sent, whatever its server says"


@pytest.mark.parametrize("storage", [{}, {"provider_ids": ["ab_*"]}])
@pytest.mark.parametrize("fields", OBJECTS)
async def test_an_object_at_the_provider_is_named_by_its_operator_and_what_that_one_lists(
    client: httpx.AsyncClient, fake: FakeOpenAI, storage: Json, fields: Json
) -> None:
    for key, may in (("owner", bool(storage)), ("operator", True)):
        sent = len(fake.calls)
        answer = await client.post(
            "/v1/responses", json={**ASK, **fields}, headers={"authorization": f"Bearer {key}"}
        )
        assert (answer.status_code == 200, len(fake.calls) > sent) == (may, may), answer.text
        assert may or answer.status_code in (400, 404)


async def test_a_name_in_a_schema_or_an_argument_or_a_citation_is_no_object(
    client: httpx.AsyncClient, fake: FakeOpenAI
) -> None:
    schema: Json = {"type": "object", "properties": {"file_id": {"default": {"file_id": "x"}}}}
    cited: Json = {"type": "file_citation", "file_id": "file_1", "index": 0, "filename": "a"}
    said: Json = {"type": "output_text", "text": "A", "annotations": [cited]}
    fields: Json = {
        "tools": [{"type": "function", "name": "f", "parameters": schema, "strict": False}],
        "input": [
            {"role": "user", "content": "Hi"},
            {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed", "content": [said]},
            {"role": "user", "content": "Go on"},
        ],
    }
    await made(client, **fields)
    assert fake.calls


async def test_an_uploaded_screenshot_is_sent_as_data(client: httpx.AsyncClient, fake: FakeOpenAI) -> None:
    png = await upload(client, "a.png", encoded(quarters(8, 8)))
    shot = {"type": "computer_screenshot", "file_id": png}
    call: Json = {
        "type": "computer_call",
        "id": "cu_1",
        "call_id": "c",
        "action": {"type": "screenshot"},
        "status": "completed",
        "pending_safety_checks": [],
    }
    output = {"type": "computer_call_output", "call_id": "c", "output": shot}
    await made(client, input=[{"role": "user", "content": "Hi"}, call, output])
    sent = fake.calls[-1].body["input"][-1]["output"]
    assert (sent["type"], sent["image_url"][:22]) == ("computer_screenshot", "data:image/png;base64,")


HELD: Json = {"file": {"file_id": "ab_1", "file_data": "data:text/plain;base64,QQ=="}}
OF_CHATS: list[Json] = [
    {"container": "ab_1"},
    {"container": {"id": "ab_1"}},
    {"container": {"skills": [{"type": "custom", "skill_id": "ab_1"}]}},
    {"audio": {"voice": {"id": "ab_1"}, "format": "wav"}, "modalities": ["text", "audio"]},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "audio": {"id": "ab_1"}}]},
    *(
        {"messages": [{"role": "user", "content": [{"type": "file", **HELD, **beside}]}]}
        for beside in ({}, {"text": "x"})
    ),
]


@pytest.mark.parametrize("fields", OF_CHATS)
async def test_a_chat_names_no_object_at_the_provider_either(
    client: httpx.AsyncClient, fake: FakeOpenAI, fields: Json
) -> None:
    chat = {"model": "gpt", "messages": [{"role": "user", "content": "Hi"}], **fields}
    refused = await client.post("/v1/chat/completions", json=chat)
    assert refused.status_code in (400, 404), refused.text
    assert "for this key" in refused.text
    assert not fake.calls


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"container": "c"}, True),
        ({"container": {"id": "c"}}, True),
        ({"container": {"skills": [{"type": "custom", "skill_id": "s"}]}}, True),
        ({"container": {"skills": [{"type": "anthropic", "skill_id": "pdf"}]}}, False),
        ({"thread": {"type": "continue", "previous_message_id": "msg_1"}}, True),
        ({"thread": {"type": "create"}}, False),
    ],
)
async def test_objects_at_anthropic_are_named_by_its_operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: Json, *, named: bool
) -> None:
    async with FakeAnthropic() as fake:
        end = {"id": "near", "protocol": "anthropic", "base_url": fake.origin, "key_env": ["ROUNDHOUSE_TEST_KEY"]}
        monkeypatch.setenv("ROUNDHOUSE_TEST_KEY", fake.key)
        source = {"kind": "upstream", "endpoint": "near", "model": "claude-sonnet-5"}
        rows = [{"id": "near/claude", "capabilities": ["chat"], "source": source}]
        settings = {"data_dir": tmp_path, "api_keys": ["owner"], "endpoint": [end], "model": rows}
        app = create_app(Settings.model_validate(settings))
        transport = httpx.ASGITransport(app=app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport) as client:
            turns = [{"role": "user", "content": "Hi"}]
            asked = {"model": "near/claude", "max_tokens": 9, "messages": turns, **fields}
            for door in ("messages", *(["chat/completions"] if "container" in fields else [])):
                sent = len(fake.calls)
                answer = await client.post(f"http://localhost/v1/{door}", json=asked, headers=OWNER)
                refused = answer.status_code == 400 and "storage.provider_ids" in answer.text
                assert (refused, len(fake.calls) > sent) == (named, not named), answer.text
