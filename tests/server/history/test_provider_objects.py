"""Addresses, stray ids and other models: no request reaches what its key may not, by whatever field or wire."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from catalog.types import Json
from server.app import create_app
from server.settings import Settings
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.openai import FakeOpenAI
from tests.server.history.test_shared_account import ASK, OWNER, client, fake, made, storage

__all__ = ["client", "fake", "storage"]


ADDRESSES = [
    "gs://bucket/x.png",
    "GS://bucket/x.png",
    "s3://bucket/x.png",
    "ms://file_1",
    "mm_file://1",
    "oss://dir/x.png",
    "file-abc",
    "files/abc",
    "https://generativelanguage.googleapis.com/v1beta/files/x",
    " HTTPS://a@Generativelanguage.googleapis.com:443/v1beta/files/x",
    "https://%67enerativelanguage.googleapis.com/v1beta/files/x",
]


def picture_of(address: str) -> Json:
    return {"type": "image_url", "image_url": {"url": address}}


def asked_to_open(address: str) -> dict[str, tuple[str, Json]]:
    """A request of each form of each door that has an address in it."""

    def chat(part: Json, role: str = "user") -> tuple[str, Json]:
        return "/v1/chat/completions", {"model": "gpt", "messages": [{"role": role, "content": [part]}]}

    def response(part: Json) -> tuple[str, Json]:
        return "/v1/responses", {"model": "gpt", "input": [{"role": "user", "content": [part]}]}

    def message(part: Json) -> tuple[str, Json]:
        turns = [{"role": "user", "content": [part]}]
        return "/v1/messages", {"model": "gpt", "max_tokens": 9, "messages": turns}

    url = {"type": "url", "url": address}
    picture: Json = {"role": "assistant", "content": "A", "images": [{"image_url": {"url": address}}]}
    return {
        "chat image": chat({"type": "image_url", "image_url": {"url": address}}),
        "chat video": chat({"type": "video_url", "video_url": {"url": address}}),
        "chat file": chat({"type": "file", "file": {"file_url": address}}),
        "chat answer": (
            "/v1/chat/completions",
            {"model": "gpt", "messages": [picture, {"role": "user", "content": "Hi"}]},
        ),
        "response file": response({"type": "input_file", "file_url": address}),
        "response image": response({"type": "input_image", "image_url": address}),
        "message image": message({"type": "image", "source": url}),
        "message document": message({"type": "document", "source": url}),
        "message result": message({"type": "tool_result", "tool_use_id": "t", "content": [{**url}]}),
        "moderation": ("/v1/moderations", {"model": "moderator", "input": [picture_of(address)]}),
        "embedding": ("/v1/embeddings", {"model": "embedder", "input": ["x", picture_of(address)]}),
        "parts of an embedding": (
            "/v1/embeddings",
            {"model": "embedder", "input": [{"content": [{"text": "x"}, picture_of(address)]}]},
        ),
        "embedding of a chat": (
            "/v1/embeddings",
            {"model": "embedder", "messages": [{"role": "user", "content": [picture_of(address)]}]},
        ),
    }


@pytest.mark.parametrize("address", ADDRESSES)
async def test_an_address_that_a_provider_opens_with_its_accounts_rights_is_an_object_of_its_operator(
    client: httpx.AsyncClient, fake: FakeOpenAI, address: str
) -> None:
    for form, (path, body) in asked_to_open(address).items():
        refused = await client.post(path, json=body)
        assert (refused.status_code, "storage.provider_ids" in refused.text) == (400, True), (form, refused.text)
    assert not fake.calls


@pytest.mark.parametrize("storage", [{"provider_ids": ["gs://open/*"]}])
async def test_a_public_address_and_a_listed_one_are_sent_and_so_is_the_operators(
    client: httpx.AsyncClient, fake: FakeOpenAI
) -> None:
    operator = {"authorization": "Bearer operator"}
    asked = [("https://example.com/x.png", OWNER), ("gs://open/x.png", OWNER), ("gs://shut/x.png", operator)]
    for sent, (address, key) in enumerate(asked, start=1):
        path, body = asked_to_open(address)["chat image"]
        answer = await client.post(path, json=body, headers=key)
        assert (answer.status_code, len(fake.calls)) == (200, sent), answer.text
        (part,) = fake.calls[-1].body["input"][-1]["content"]
        assert part["image_url"] == address


async def test_an_address_in_what_was_kept_or_found_is_told_from_one_that_is_opened(
    client: httpx.AsyncClient, fake: FakeOpenAI
) -> None:
    part = {"type": "input_image", "image_url": "gs://bucket/x.png"}
    items = {"items": [{"type": "message", "role": "user", "content": [part]}]}
    kept = await client.post("/v1/conversations", json=items)
    refused = await client.post("/v1/responses", json={**ASK, "conversation": kept.json()["id"]})
    assert (refused.status_code, "storage.provider_ids" in refused.text) == (400, True)
    assert not fake.calls
    action = {"type": "open_page", "url": "about:blank"}
    searched = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": action}
    text = {"role": "user", "content": [{"type": "input_text", "text": "gs://bucket/x.png"}]}
    await made(client, input=[text, searched, {"role": "user", "content": "Hi"}])


def with_system(text: str) -> dict[str, tuple[str, Json]]:
    """A request of each door whose system prompt has a text."""
    turn = {"role": "user", "content": "Hi"}
    parts = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": text}]
    chat = "/v1/chat/completions"
    return {
        "chat": (chat, {"model": "gpt", "messages": [{"role": "system", "content": text}, turn]}),
        "chat's developer": (chat, {"model": "gpt", "messages": [{"role": "developer", "content": text}, turn]}),
        "chat's parts": (chat, {"model": "gpt", "messages": [{"role": "system", "content": parts}, turn]}),
        "response": ("/v1/responses", {**ASK, "instructions": text}),
        "response's item": ("/v1/responses", {**ASK, "input": [{"role": "system", "content": text}, turn]}),
        "message": ("/v1/messages", {"model": "gpt", "max_tokens": 9, "system": text, "messages": [turn]}),
        "ollama": ("/api/chat", {"model": "gpt", "messages": [{"role": "system", "content": text}, turn]}),
    }


@pytest.mark.parametrize(
    "text", ["fileid://file-fe-1", "Read this: FileID://file-fe-1.", "fileid://file-open,fileid://file-fe-1"]
)
@pytest.mark.parametrize("storage", [{"provider_ids": ["file-open"]}])
async def test_the_id_of_a_file_in_a_system_prompt_is_an_object_of_the_account(
    client: httpx.AsyncClient, fake: FakeOpenAI, text: str
) -> None:
    for door, (path, body) in with_system(text).items():
        refused = await client.post(path, json=body)
        assert (refused.status_code, "storage.provider_ids" in refused.text) == (400, True), (door, refused.text)
    assert not fake.calls


@pytest.mark.parametrize("storage", [{"provider_ids": ["file-open", "fileid://open-*"]}])
async def test_a_listed_file_in_a_system_prompt_is_sent_and_so_is_the_operators_and_any_in_other_text(
    client: httpx.AsyncClient, fake: FakeOpenAI
) -> None:
    operator = {"authorization": "Bearer operator"}
    said = {"model": "gpt", "messages": [{"role": "user", "content": "What does fileid://file-1 mean?"}]}
    asked = [
        (with_system("fileid://file-open")["chat"][1], OWNER),
        (with_system("fileid://open-1")["chat"][1], OWNER),
        (with_system("fileid://file-shut")["chat"][1], operator),
        (with_system("See https://example.com/fileid")["chat"][1], OWNER),
        (said, OWNER),
    ]
    for sent, (body, key) in enumerate(asked, start=1):
        answer = await client.post("/v1/chat/completions", json=body, headers=key)
        assert (answer.status_code, len(fake.calls)) == (200, sent), answer.text


STRAY: list[Json] = [
    *({name: "ab_1"} for name in ("thread_id", "assistant_id", "cached_content", "conversation_id", "agent_id")),
    *({name: "ab_1"} for name in ("previous_response_id", "conversation", "vector_store", "response_id")),
    {"files": [{"id": "ab_1"}]},
    {"attachments": [{"file_id": "ab_1"}]},
    {"thread": {"id": "ab_1"}},
    {"context_management": [{"type": "x", "id": "ab_1"}]},
]


@pytest.mark.parametrize("fields", STRAY, ids=lambda fields: next(iter(fields)))
async def test_an_id_in_a_field_that_an_api_lacks_is_an_object_too(
    client: httpx.AsyncClient, fake: FakeOpenAI, fields: Json
) -> None:
    doors: dict[str, Json] = {
        "chat/completions": {"model": "gpt", "messages": [{"role": "user", "content": "Hi"}]},
        "completions": {"model": "gpt", "prompt": "Hi"},
        "embeddings": {"model": "gpt", "input": "Hi"},
        "images/generations": {"model": "gpt", "prompt": "Hi"},
    }
    if fields.keys().isdisjoint({"previous_response_id", "conversation"}):  # which are its own
        doors["responses"] = {"model": "gpt", "input": "Hi"}
    for door, body in doors.items():
        refused = await client.post(f"/v1/{door}", json={**body, **fields})
        assert (refused.status_code, "for this key" in refused.text) == (400, True), (door, refused.text)
    assert not fake.calls


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"file_id": "ab_1"}},
        {"type": "input_file", "file_id": "ab_1"},
        {"type": "text", "text": "x", "file_id": "ab_1"},
    ],
)
async def test_an_id_in_a_part_of_a_chat_is_an_object_whatever_the_part_is_called(
    client: httpx.AsyncClient, fake: FakeOpenAI, part: Json
) -> None:
    chat = {"model": "gpt", "messages": [{"role": "user", "content": [part]}]}
    refused = await client.post("/v1/chat/completions", json=chat)
    assert (refused.status_code in (400, 404), "for this key" in refused.text) == (True, True), refused.text
    assert not fake.calls


@pytest.mark.parametrize("wire", ["chat/completions", "responses", "messages"])
async def test_no_wire_names_another_model_than_the_key_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wire: str
) -> None:
    maker = FakeAnthropic if wire == "messages" else FakeOpenAI
    async with maker() as fake:
        monkeypatch.setenv("ROUNDHOUSE_TEST_KEY", fake.key or "x")
        base = fake.base_url if isinstance(fake, FakeOpenAI) else fake.origin
        protocol = "openai" if isinstance(fake, FakeOpenAI) else "anthropic"
        end: Json = {"id": "near", "protocol": protocol, "base_url": base, "key_env": ["ROUNDHOUSE_TEST_KEY"]}
        if wire == "responses":
            end["wire"] = "responses"
        source = {"kind": "upstream", "endpoint": "near", "model": "fake-chat"}
        rows = [{"id": "near/claude", "capabilities": ["chat"], "source": source}]
        settings = {"data_dir": tmp_path, "admin_keys": ["operator"], "endpoint": [end], "model": rows}
        app = create_app(Settings.model_validate(settings))
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            admin = {"authorization": "Bearer operator"}
            asked = {"name": "narrow", "models": ["near/claude"]}
            made = await client.post("/v1/admin/keys", json=asked, headers=admin)
            narrow = {"authorization": f"Bearer {made.json()['secret']}"}
            turns = [{"role": "user", "content": "Hi"}]
            body: Json = {
                "model": "near/claude",
                **({"input": turns} if wire == "responses" else {"messages": turns}),
            }
            if wire == "messages":
                body["max_tokens"] = 9
            assert (await client.post(f"/v1/{wire}", json=body, headers=narrow)).status_code == 200
            sent = len(fake.calls)
            for name, value in (
                ("models", ["other"]),
                ("fallbacks", [{"model": "other"}]),
                ("webhook", "http://x"),
            ):
                refused = await client.post(f"/v1/{wire}", json={**body, name: value}, headers=narrow)
                assert refused.status_code in (400, 403), (name, refused.text)
                assert name in refused.json()["error"]["message"]
            assert len(fake.calls) == sent
