"""A file of parts: whole and in order, or none."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import httpx
import pytest

from catalog.types import Json
from routing.state.records import unanswered
from server.storage.files import PART, Files
from tests.server.api.stored.test_files import bounds, files_of, names
from tests.server.conftest import Gateway, Start


async def begin(gateway: Gateway, size: int = 6, **more: Any) -> Json:
    body = {"bytes": size, "filename": "a.txt", "mime_type": "text/plain", "purpose": "user_data", **more}
    answer = await gateway.client.post("/v1/uploads", json=body)
    assert answer.status_code == 200, answer.text
    made: Json = answer.json()
    return made


async def add(gateway: Gateway, upload: Json, data: bytes) -> httpx.Response:
    return await gateway.client.post(f"/v1/uploads/{upload['id']}/parts", files={"data": ("blob", data)})


async def part(gateway: Gateway, upload: Json, data: bytes) -> str:
    answer = await add(gateway, upload, data)
    assert answer.status_code == 200, answer.text
    made: str = answer.json()["id"]
    return made


async def complete(gateway: Gateway, upload: Json, parts: list[str], **more: Any) -> httpx.Response:
    return await gateway.client.post(f"/v1/uploads/{upload['id']}/complete", json={"part_ids": parts, **more})


async def test_parts_become_a_file_in_the_order_of_their_ids(gateway: Gateway) -> None:
    upload = await begin(gateway, expires_after={"anchor": "created_at", "seconds": 7200})
    assert (upload["status"], upload["file"]) == ("pending", None)
    assert upload["expires_at"] - upload["created_at"] == 3600
    last, first = await asyncio.gather(part(gateway, upload, b"def"), part(gateway, upload, b"abc"))
    digest = hashlib.md5(b"abcdef").hexdigest()
    done = (await complete(gateway, upload, [first, last], md5=digest)).json()
    assert (done["status"], done["file"]["bytes"], done["file"]["filename"]) == ("completed", 6, "a.txt")
    assert done["file"]["expires_at"] - done["file"]["created_at"] == 7200
    content = await gateway.client.get(f"/v1/files/{done['file']['id']}/content")
    assert content.content == b"abcdef"
    assert names(files_of(gateway).folder) == [done["file"]["id"]]
    again = await complete(gateway, upload, [first, last])
    assert "completed" in again.json()["error"]["message"]


async def test_parts_that_do_not_make_the_file_are_refused_and_may_be_mended(gateway: Gateway) -> None:
    upload = await begin(gateway)
    one, two = await part(gateway, upload, b"abc"), await part(gateway, upload, b"def")
    for parts, more in (
        ([one], {}),
        ([one, one], {}),
        ([one, "part_none"], {}),
        ([one, two], {"md5": "0" * 32}),
        ([one, two], {"md5": "short"}),
        ([], {}),
    ):
        refused = await complete(gateway, upload, parts, **more)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] in ("part_ids", "md5")
    too_much = await add(gateway, upload, b"x")
    assert (too_much.status_code, too_much.json()["error"]["param"]) == (400, "data")
    assert (await complete(gateway, upload, [one, two])).status_code == 200


async def test_a_cancelled_upload_keeps_nothing(gateway: Gateway) -> None:
    upload = await begin(gateway)
    only = await part(gateway, upload, b"abcdef")
    cancelled = await gateway.client.post(f"/v1/uploads/{upload['id']}/cancel")
    assert cancelled.json()["status"] == "cancelled"
    assert names(files_of(gateway).folder) == []
    for refused in (
        await add(gateway, upload, b"abc"),
        await complete(gateway, upload, [only]),
        await gateway.client.post(f"/v1/uploads/{upload['id']}/cancel"),
    ):
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "upload_id")


async def test_an_upload_that_is_not_completed_expires(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = await begin(gateway)
    monkeypatch.setattr("server.api.stored.uploads._shown", _an_hour_later(upload))
    refused = await add(gateway, upload, b"abc")
    assert "expired" in refused.json()["error"]["message"]


def _an_hour_later(upload: Json) -> Any:
    from server.api.stored import uploads

    shown = uploads._shown
    return lambda record, now: shown(record, now + 3600)


async def test_two_completions_at_once_make_one_file(gateway: Gateway) -> None:
    upload = await begin(gateway)
    parts = [await part(gateway, upload, b"abc"), await part(gateway, upload, b"def")]
    answers = await asyncio.gather(*(complete(gateway, upload, parts) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 400, 400, 400]
    listed = (await gateway.client.get("/v1/files")).json()["data"]
    done = next(answer.json() for answer in answers if answer.status_code == 200)
    assert [file["id"] for file in listed] == [done["file"]["id"]]
    assert names(files_of(gateway).folder) == [done["file"]["id"]]


@pytest.mark.parametrize("failing", ["_join", "_publish", "record", "end"])
async def test_a_completion_that_fails_keeps_the_parts_for_another(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    bounds(gateway, file_bytes_per_key=11)  # less than the file beside its parts
    upload = await begin(gateway)
    parts = [await part(gateway, upload, b"abc"), await part(gateway, upload, b"def")]
    files: Files = files_of(gateway)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async def stuck(*_: object, **__: object) -> None:
        raise unanswered()

    with monkeypatch.context() as patch:
        match failing:
            case "record":
                patch.setattr(files.storage, "keep", stuck)
            case "end":
                patch.setattr(files.storage.records, "replace", stuck)
            case _:
                patch.setattr(f"server.storage.files.{failing}", full)
        refused = await complete(gateway, upload, parts)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "service_unavailable")
    assert sorted(names(files.folder)) == sorted(parts)
    done = await complete(gateway, upload, parts)
    assert done.status_code == 200, done.text
    assert names(files.folder) == [done.json()["file"]["id"]]


async def test_parts_take_room_and_the_file_replaces_them(gateway: Gateway) -> None:
    bounds(gateway, file_bytes=8, file_bytes_per_key=9)
    large = await gateway.client.post(
        "/v1/uploads", json={"bytes": 9, "filename": "a", "mime_type": "x", "purpose": "batch"}
    )
    assert (large.status_code, large.json()["error"]["code"]) == (413, "payload_too_large")
    first, second = await begin(gateway, 6), await begin(gateway, 6)
    held = await part(gateway, first, b"abcdef")
    refused = await add(gateway, second, b"abcdef")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "storage_full")
    assert (await complete(gateway, first, [held])).status_code == 200
    files: Files = files_of(gateway)
    assert await files.used("anonymous") == 6
    assert not [name for name in names(files.folder) if name.startswith(PART)]


async def test_an_upload_of_another_key_is_404(start: Start) -> None:
    async with start(api_keys=("one", "two")) as gateway:
        gateway.client.headers["authorization"] = "Bearer one"
        upload = await begin(gateway)
        gateway.client.headers["authorization"] = "Bearer two"
        assert (await add(gateway, upload, b"abc")).status_code == 404
        assert (await complete(gateway, upload, ["part_x"])).status_code == 404
        assert (await gateway.client.post(f"/v1/uploads/{upload['id']}/cancel")).status_code == 404
