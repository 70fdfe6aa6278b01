"""Files of callers: kept whole, within bounds, for one key, and swept when nobody needs them."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest

from catalog.types import Json
from server.callers import ANONYMOUS
from server.storage.files import LEFT_OVER, Files
from server.storage.settings import StorageSettings
from tests.server.conftest import Gateway, Start

LINE = b'{"a": 1}\n'


def files_of(gateway: Gateway) -> Files:
    runtime = gateway.services.runtime
    assert runtime is not None
    return runtime.files


def bounds(gateway: Gateway, **settings: Any) -> None:
    runtime = gateway.services.runtime
    assert runtime is not None
    runtime.storage.configure(StorageSettings(**settings))


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def upload(gateway: Gateway, content: bytes = LINE, name: str = "in.jsonl", **fields: str) -> httpx.Response:
    return await gateway.client.post(
        "/v1/files", files={"file": (name, content)}, data={"purpose": "batch", **fields}
    )


async def kept(gateway: Gateway, content: bytes = LINE, **fields: str) -> Json:
    answer = await upload(gateway, content, **fields)
    assert answer.status_code == 200, answer.text
    made: Json = answer.json()
    return made


async def test_a_file_is_kept_described_read_listed_and_deleted(gateway: Gateway) -> None:
    made = await kept(gateway)
    assert (made["object"], made["bytes"], made["filename"]) == ("file", len(LINE), "in.jsonl")
    assert made["expires_at"] - made["created_at"] == 30 * 86_400
    got = await gateway.client.get(f"/v1/files/{made['id']}")
    assert got.json() == made
    content = await gateway.client.get(f"/v1/files/{made['id']}/content")
    assert content.content == LINE
    assert (await gateway.client.get("/v1/files")).json()["data"] == [made]
    deleted = await gateway.client.delete(f"/v1/files/{made['id']}")
    assert deleted.json() == {"id": made["id"], "object": "file", "deleted": True}
    for path in ("", "/content"):
        assert (await gateway.client.get(f"/v1/files/{made['id']}{path}")).status_code == 404
    assert names(files_of(gateway).folder) == []


async def test_a_file_on_disk_is_named_by_its_id_and_for_this_user_alone(gateway: Gateway) -> None:
    made = await kept(gateway)
    evil = await upload(gateway, name="../../etc/passwd")
    assert evil.json()["filename"] == "passwd"
    folder = files_of(gateway).folder
    assert sorted(names(folder)) == sorted([made["id"], evil.json()["id"]])
    assert (folder / made["id"]).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fpasswd", "file-none", "x" * 500, "%00"])
async def test_a_name_that_is_no_file_is_404(gateway: Gateway, name: str) -> None:
    for answer in (
        await gateway.client.get(f"/v1/files/{name}"),
        await gateway.client.get(f"/v1/files/{name}/content"),
        await gateway.client.delete(f"/v1/files/{name}"),
    ):
        assert answer.status_code == 404
        assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_a_file_of_another_key_is_404_and_not_listed(start: Start) -> None:
    async with start(api_keys=("one", "two")) as gateway:
        gateway.client.headers["authorization"] = "Bearer one"
        made = await kept(gateway)
        gateway.client.headers["authorization"] = "Bearer two"
        assert (await gateway.client.get("/v1/files")).json()["data"] == []
        assert (await gateway.client.get("/v1/files", params={"after": made["id"]})).status_code == 400
        for answer in (
            await gateway.client.get(f"/v1/files/{made['id']}"),
            await gateway.client.get(f"/v1/files/{made['id']}/content"),
            await gateway.client.delete(f"/v1/files/{made['id']}"),
        ):
            assert answer.status_code == 404
        gateway.client.headers["authorization"] = "Bearer one"
        assert (await gateway.client.get(f"/v1/files/{made['id']}/content")).content == LINE


async def test_a_list_is_by_purpose_and_in_pages(gateway: Gateway) -> None:
    made = [await kept(gateway, purpose=purpose) for purpose in ("batch", "user_data", "batch")]
    page = (await gateway.client.get("/v1/files", params={"limit": 2})).json()
    assert [each["id"] for each in page["data"]] == [made[2]["id"], made[1]["id"]]
    assert page["has_more"]
    rest = (await gateway.client.get("/v1/files", params={"after": page["last_id"]})).json()
    assert [each["id"] for each in rest["data"]] == [made[0]["id"]]
    assert not rest["has_more"]
    mine = (await gateway.client.get("/v1/files", params={"purpose": "user_data", "order": "asc"})).json()
    assert [each["id"] for each in mine["data"]] == [made[1]["id"]]


async def test_a_file_expires_as_its_caller_says(gateway: Gateway) -> None:
    timed = await kept(gateway, LINE, **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"})
    assert timed["expires_at"] - timed["created_at"] == 3600
    assert (await kept(gateway, purpose="user_data"))["expires_at"] is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "nothing"}, "purpose"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "5"}, "expires_after.seconds"),
        ({"expires_after[anchor]": "created_at"}, "expires_after.seconds"),
        ({"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}, "expires_after.anchor"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_a_form_that_is_wrong_names_the_field(gateway: Gateway, fields: dict[str, str], param: str) -> None:
    answer = await upload(gateway, LINE, "in.jsonl", **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert names(files_of(gateway).folder) == []


async def test_a_form_without_its_file_or_purpose_is_refused(gateway: Gateway) -> None:
    empty = await upload(gateway, b"")
    assert (empty.status_code, empty.json()["error"]["param"]) == (400, "file")
    text = await gateway.client.post("/v1/files", data={"purpose": "batch", "file": "x"}, files={"other": b"x"})
    assert (text.status_code, text.json()["error"]["param"]) == (400, "file")
    bare = await gateway.client.post("/v1/files", files={"file": ("a", b"x")})
    assert (bare.status_code, bare.json()["error"]["param"]) == (400, "purpose")


async def test_a_file_above_the_limit_is_413_and_leaves_nothing(gateway: Gateway) -> None:
    bounds(gateway, file_bytes=10)
    assert (await upload(gateway, b"x" * 10)).status_code == 200
    refused = await upload(gateway, b"x" * 11)
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "payload_too_large")
    assert "storage.file_bytes" in refused.json()["error"]["message"]
    far = await upload(gateway, b"x" * (3 << 20))
    assert far.status_code == 413
    assert len(names(files_of(gateway).folder)) == 1


async def test_files_of_a_key_keep_within_its_room_also_when_they_come_together(gateway: Gateway) -> None:
    bounds(gateway, file_bytes_per_key=25)
    await kept(gateway, b"x" * 10)
    answers = await asyncio.gather(*(upload(gateway, b"x" * 10) for _ in range(4)))
    stored = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(stored) <= 1
    assert len(stored) + len(refused) == 4
    assert refused[0].json()["error"]["code"] == "storage_full"
    assert await files_of(gateway).used(ANONYMOUS.id) <= 25
    assert len(names(files_of(gateway).folder)) == 1 + len(stored)


async def test_leftovers_and_files_without_a_record_are_swept(gateway: Gateway) -> None:
    files = files_of(gateway)
    made = await kept(gateway)
    old = files.folder / "tmpabc.tmp"
    orphan = files.folder / "file-0123"
    fresh = files.folder / "tmpnew.tmp"
    for path in (old, orphan, fresh):
        path.write_bytes(b"x")
    before = old.stat().st_mtime - LEFT_OVER - 60
    for path in (old, orphan, files.path(made["id"])):
        os.utime(path, (before, before))
    assert await files.sweep() == 2
    assert sorted(names(files.folder)) == sorted([made["id"], fresh.name])


async def test_a_disk_that_fails_is_503(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("server.storage.files._publish", full)
    answer = await upload(gateway)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
    assert "No space left" in answer.json()["error"]["message"]
    assert names(files_of(gateway).folder) == []


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(serve: Start) -> None:
    async with serve() as gateway:
        folder: Path = files_of(gateway).folder
        host, port = gateway.client.base_url.host, gateway.client.base_url.port
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(
            b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=B\r\n"
            b"Content-Length: 10000\r\n\r\n--B\r\n"
            b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc'
        )
        await writer.drain()
        async with asyncio.timeout(10):
            while not names(folder):
                await asyncio.sleep(0.01)
            writer.close()
            while names(folder):
                await asyncio.sleep(0.01)
        del reader


async def test_anthropics_clients_get_files_in_its_shape(serve: Start) -> None:
    async with serve() as gateway, AsyncExitStack() as stack:
        origin = str(gateway.client.base_url)
        client = await stack.enter_async_context(
            anthropic.AsyncAnthropic(base_url=origin, api_key="x", max_retries=0)
        )
        made = [await client.beta.files.upload(file=(f"{n}.txt", b"hi")) for n in range(3)]
        assert [(each.type, each.filename, each.size_bytes) for each in made[:1]] == [("file", "0.txt", 2)]
        assert made[0].mime_type == "text/plain"
        listed = [each.id async for each in client.beta.files.list(limit=1)]
        assert listed == [each.id for each in reversed(made)]
        assert (await client.beta.files.retrieve_metadata(made[1].id)).id == made[1].id
        gone = await client.beta.files.delete(made[1].id)
        assert (gone.id, gone.type) == (made[1].id, "file_deleted")
        older = await gateway.client.get(
            f"/v1/files?after_id={made[2].id}", headers={"anthropic-version": "2023-06-01"}
        )
        assert [each["id"] for each in older.json()["data"]] == [made[0].id]
