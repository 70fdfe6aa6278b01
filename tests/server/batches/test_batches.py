"""OpenAI's batches: checked line by line, answered as their endpoints answer, ended in every way."""

from __future__ import annotations

import asyncio
import base64
from codecs import BOM_UTF8
from typing import Any, get_args

import orjson
import pytest
from structlog.testing import capture_logs

from catalog.errors import InvalidRequest, QueueFull, UpstreamQuotaExceeded, UpstreamUnreachable
from catalog.types import Json
from routing.facts import Workload
from server.api.doors import DOORS
from server.api.stored import batches
from server.api.stored.batches import Endpoint
from server.storage.slots import Slot
from tests.fakes.pictures import encoded, quarters
from tests.server.api.stored.test_files import bounds, files_of, names
from tests.server.batches.helpers import CHAT, chat_line, content, jsonl, send, until, works_of
from tests.server.conftest import Gateway, Start


async def test_every_line_is_answered_as_its_endpoint_answers(gateway: Gateway) -> None:
    batch = await send(gateway, jsonl(*(chat_line(f"r{n}") for n in range(5))), metadata={"job": "night"})
    assert (batch["object"], batch["status"], batch["metadata"]) == ("batch", "validating", {"job": "night"})
    done = await until(gateway, batch, "completed", "failed")
    assert done["status"] == "completed", done["errors"]
    assert done["request_counts"] == {"total": 5, "completed": 5, "failed": 0}
    assert (done["error_file_id"], done["model"]) == (None, "parrot")
    assert done["completed_at"] >= done["finalizing_at"] >= done["in_progress_at"] >= done["created_at"]
    lines = await content(gateway, done["output_file_id"])
    assert sorted(line["custom_id"] for line in lines) == [f"r{n}" for n in range(5)]
    direct = (await gateway.client.post(CHAT, json=chat_line("x")["body"])).json()
    for line in lines:
        assert line["error"] is None
        assert line["response"]["status_code"] == 200
        assert line["response"]["body"]["choices"] == direct["choices"]
    assert len({line["id"] for line in lines}) == 5
    assert done["usage"]["total_tokens"] == 5 * direct["usage"]["total_tokens"]
    kept = (await gateway.client.get(f"/v1/files/{done['output_file_id']}")).json()
    assert kept["purpose"] == "batch_output"
    assert sorted(names(files_of(gateway).folder)) == sorted([batch["input_file_id"], done["output_file_id"]])


PICTURE = f"data:image/png;base64,{base64.b64encode(encoded(quarters(8, 6))).decode()}"
BODIES: dict[str, Json] = {
    CHAT: chat_line("x")["body"],
    "/v1/responses": {"model": "parrot", "input": "Hi", "store": False},
    "/v1/completions": {"model": "parrot", "prompt": "Hi"},
    "/v1/embeddings": {"model": "parrot", "input": ["a", "b"]},
    "/v1/moderations": {"model": "parrot", "input": "Hi"},
    "/v1/images/generations": {"model": "parrot", "prompt": "a bird"},
    "/v1/images/edits": {"model": "parrot", "prompt": "a hat", "images": [{"image_url": PICTURE}]},
    "/v1/rerank": {"model": "parrot", "query": "q", "documents": ["a", "b"]},
    "/v1/messages": {"model": "parrot", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]},
}


def test_every_endpoint_of_a_batch_has_a_door() -> None:
    assert set(get_args(Endpoint)) == set(DOORS) == set(BODIES)


def timeless(value: Any) -> Any:
    """An answer without its ids and times."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in ("id", "item_id") and "created" not in k}
    return [timeless(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("path", BODIES)
async def test_a_line_gets_the_answer_of_the_door_that_it_names(gateway: Gateway, path: str) -> None:
    line = {"custom_id": "one", "method": "POST", "url": path, "body": BODIES[path]}
    done = await until(gateway, await send(gateway, jsonl(line), path), "completed", "failed")
    assert done["status"] == "completed", done["errors"]
    (got,) = await content(gateway, done["output_file_id"])
    direct = await gateway.client.post(path, json=BODIES[path])
    assert direct.status_code == 200
    assert timeless(got["response"]["body"]) == timeless(direct.json())
    assert gateway.dispatcher.facts[0].intent.workload is Workload.BATCH
    assert gateway.dispatcher.facts[-1].intent.workload is Workload.INTERACTIVE


async def test_an_input_may_begin_with_a_byte_order_mark(gateway: Gateway) -> None:
    batch = await send(gateway, BOM_UTF8 + jsonl(chat_line("a"), chat_line("b")))
    done = await until(gateway, batch, "completed", "failed")
    assert done["status"] == "completed", done["errors"]
    assert sorted(line["custom_id"] for line in await content(gateway, done["output_file_id"])) == ["a", "b"]


async def test_a_line_may_name_its_endpoint_without_v1_but_no_other(gateway: Gateway) -> None:
    short = {**chat_line("a"), "url": "/chat/completions"}
    done = await until(gateway, await send(gateway, jsonl(short)), "completed", "failed")
    assert (done["status"], done["request_counts"]["completed"]) == ("completed", 1)
    other = {**chat_line("a"), "url": "/embeddings"}
    failed = await until(gateway, await send(gateway, jsonl(other)), "completed", "failed")
    assert [error["code"] for error in failed["errors"]["data"]] == ["invalid_url"]


async def test_the_answer_of_a_line_is_stored_if_the_line_says_so(gateway: Gateway) -> None:
    for path, stored in ((CHAT, {"store": True}), ("/v1/responses", {"store": True}), ("/v1/responses", {})):
        body = {name: value for name, value in BODIES[path].items() if name != "store"}
        line = {"custom_id": "one", "method": "POST", "url": path, "body": {**body, **stored}}
        done = await until(gateway, await send(gateway, jsonl(line), path), "completed", "failed")
        (got,) = await content(gateway, done["output_file_id"])
        again = await gateway.client.get(f"{path}/{got['response']['body']['id']}")
        assert again.status_code == (200 if stored else 404), path


@pytest.mark.parametrize(
    ("line", "code", "param"),
    [
        (b"{not json}", "invalid_json_line", None),
        (b"\x00\xff\xfe", "invalid_json_line", None),
        (b"[1]", "invalid_json_line", None),
        (jsonl({"method": "POST", "url": CHAT, "body": {}}), "missing_required_parameter", "custom_id"),
        (jsonl({"custom_id": "b", "method": "POST", "url": CHAT}), "missing_required_parameter", "body"),
        (jsonl({**chat_line("b"), "custom_id": 5}), "invalid_custom_id", "custom_id"),
        (jsonl(chat_line("a")), "duplicate_custom_id", "custom_id"),
        (jsonl({**chat_line("b"), "url": "/v1/embeddings"}), "invalid_url", "url"),
        (jsonl({**chat_line("b"), "method": "GET"}), "invalid_method", "method"),
        (jsonl(chat_line("b", messages=[])), "invalid_request", "body.messages"),
        (jsonl(chat_line("b", temperature="hot")), "invalid_request", "body.temperature"),
        (jsonl(chat_line("b", stream=True)), "invalid_request", "body.stream"),
        (jsonl(chat_line("b", model="nobody")), "model_not_found", "body.model"),
    ],
)
async def test_a_wrong_line_fails_the_batch_with_its_number(
    gateway: Gateway, line: bytes, code: str, param: str | None
) -> None:
    batch = await send(gateway, jsonl(chat_line("a")) + b"\n" + line.rstrip() + b"\n")
    failed = await until(gateway, batch, "failed", "completed")
    assert failed["status"] == "failed"
    (error,) = failed["errors"]["data"]
    assert (error["code"], error["line"], error["param"]) == (code, 3, param)
    assert error["message"]
    assert failed["output_file_id"] is None
    assert not gateway.dispatcher.facts
    assert names(files_of(gateway).folder) == [batch["input_file_id"]]


async def test_a_file_that_is_no_jsonl_fails_with_a_bounded_number_of_errors(gateway: Gateway) -> None:
    failed = await until(gateway, await send(gateway, b"no\n" * 5000), "failed")
    assert len(failed["errors"]["data"]) == 100
    binary = await until(gateway, await send(gateway, bytes(range(256)) * 1000), "failed")
    assert binary["errors"]["data"][0]["code"] == "invalid_json_line"
    blank = await until(gateway, await send(gateway, b"\n\n \n"), "failed")
    assert blank["errors"]["data"][0]["code"] == "empty_batch"


async def test_more_lines_than_the_limit_fail_without_being_read(gateway: Gateway) -> None:
    bounds(gateway, batch_lines=3)
    fits = await send(gateway, jsonl(*(chat_line(f"r{n}") for n in range(3))))
    assert (await until(gateway, fits, "completed", "failed"))["status"] == "completed"
    failed = await until(gateway, await send(gateway, jsonl(*(chat_line(f"r{n}") for n in range(4)))), "failed")
    (error,) = failed["errors"]["data"]
    assert error["code"] == "too_many_requests"
    assert "storage.batch_lines" in error["message"]


async def test_a_line_that_fails_is_in_the_error_file(gateway: Gateway) -> None:
    gateway.backend.script = (InvalidRequest("No.", param="messages"),)
    done = await until(gateway, await send(gateway, jsonl(chat_line("a"), chat_line("b"))), "completed")
    assert done["request_counts"] == {"total": 2, "completed": 0, "failed": 2}
    assert done["output_file_id"] is None
    lines = await content(gateway, done["error_file_id"])
    assert sorted(line["custom_id"] for line in lines) == ["a", "b"]
    for line in lines:
        assert line["response"]["status_code"] == 400
        assert line["response"]["body"]["error"]["message"] == "No."


async def test_a_line_waits_for_a_full_queue_and_not_for_a_used_up_account(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        gateway.backend.script = before

    monkeypatch.setattr(Slot, "sleep", lambda _, seconds: sleep(seconds))
    before = gateway.backend.script
    gateway.backend.script = (QueueFull("full", retry_after=7),)
    done = await until(gateway, await send(gateway, jsonl(chat_line("a"))), "completed")
    assert done["request_counts"]["completed"] == 1
    assert len(waits) == 1
    assert 7 <= waits[0] < 9


async def test_a_line_waits_until_the_account_of_its_provider_is_open_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def sleep(slot: Slot, seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 20:
            gateway.backend.script = before

    monkeypatch.setattr(Slot, "sleep", sleep)
    before = gateway.backend.script
    gateway.backend.script = (UpstreamQuotaExceeded("used up"),)
    with capture_logs() as logs:
        done = await until(gateway, await send(gateway, jsonl(chat_line("a"))), "completed")
    assert [log["error"] for log in logs if log["event"] == "batch.waits"] == ["insufficient_quota"]
    assert done["request_counts"] == {"total": 1, "completed": 1, "failed": 0}
    assert len(waits) == 20
    assert min(waits) >= 300


async def test_a_batch_whose_model_is_gone_says_so_while_it_is(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch: Json = {}
    told: list[Json] = []

    async def sleep(slot: Slot, seconds: float) -> None:
        told.append((await gateway.client.get(f"/v1/batches/{batch['id']}")).json())
        if len(told) == 5:
            gateway.backend.script = before

    monkeypatch.setattr(Slot, "sleep", sleep)
    before = gateway.backend.script
    gateway.backend.script = (UpstreamUnreachable("The far end is gone."),)
    with capture_logs() as logs:
        batch |= await send(gateway, jsonl(chat_line("a")))
        done = await until(gateway, batch, "completed")
    assert ["notice" in each for each in told] == [False, False, True, True, True]
    assert "The far end is gone." in told[-1]["notice"]
    assert len([log for log in logs if log["event"] == "batch.waits"]) == 1
    assert (done["request_counts"]["completed"], "notice" in done) == (1, False)


async def test_a_batch_that_waits_for_an_account_can_be_cancelled(gateway: Gateway) -> None:
    gateway.backend.script = (UpstreamQuotaExceeded("used up"),)
    batch = await send(gateway, jsonl(chat_line("a")))
    await until(gateway, batch, "in_progress")
    async with asyncio.timeout(20):
        while not gateway.dispatcher.facts:
            await asyncio.sleep(0.01)
    await gateway.client.post(f"/v1/batches/{batch['id']}/cancel")
    done = await until(gateway, batch, "cancelled")
    (line,) = await content(gateway, done["error_file_id"])
    assert line["custom_id"] == "a"


async def test_a_cancelled_batch_keeps_what_is_answered(gateway: Gateway) -> None:
    gate = gateway.dispatcher.gate = asyncio.Event()
    gate.set()
    work = works_of(gateway)["batch"]
    work._concurrency = 1
    answered = asyncio.Event()
    record = gateway.dispatcher.facts

    class Gate(asyncio.Event):
        async def wait(self) -> Any:
            if len(record) > 2:
                answered.set()
                await super().wait()
            return True

    gateway.dispatcher.gate = Gate()
    batch = await send(gateway, jsonl(*(chat_line(f"r{n}") for n in range(5))))
    await asyncio.wait_for(answered.wait(), 20)
    told = (await gateway.client.post(f"/v1/batches/{batch['id']}/cancel")).json()
    assert told["status"] == "cancelling"
    assert told["cancelling_at"] is not None
    done = await until(gateway, batch, "cancelled")
    assert done["request_counts"] == {"total": 5, "completed": 2, "failed": 0}
    assert [line["custom_id"] for line in await content(gateway, done["output_file_id"])] == ["r0", "r1"]
    left = await content(gateway, done["error_file_id"])
    assert [(line["custom_id"], line["error"]["code"]) for line in left] == [
        (f"r{n}", "batch_cancelled") for n in (2, 3, 4)
    ]
    again = await gateway.client.post(f"/v1/batches/{batch['id']}/cancel")
    assert again.status_code == 400
    assert "cancelled" in again.json()["error"]["message"]


async def test_a_batch_whose_window_ends_has_expired(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway.dispatcher.gate = asyncio.Event()
    monkeypatch.setitem(batches._UNITS, "m", 1)
    batch = await send(gateway, jsonl(chat_line("a"), chat_line("b")), completion_window="1m")
    done = await until(gateway, batch, "expired")
    assert done["expired_at"] is not None
    assert done["request_counts"] == {"total": 2, "completed": 0, "failed": 0}
    left = await content(gateway, done["error_file_id"])
    assert {line["error"]["code"] for line in left} == {"batch_expired"}
    assert {line["custom_id"] for line in left} == {"a", "b"}


async def test_an_input_may_be_deleted_under_a_batch_at_work(gateway: Gateway) -> None:
    gate = gateway.dispatcher.gate = asyncio.Event()
    batch = await send(gateway, jsonl(*(chat_line(f"r{n}") for n in range(40))))
    await asyncio.wait_for(gateway.dispatcher.waiting.wait(), 20)
    assert (await gateway.client.delete(f"/v1/files/{batch['input_file_id']}")).status_code == 200
    gate.set()
    done = await until(gateway, batch, "completed", "failed")
    assert done["request_counts"]["completed"] == 40


async def test_batches_are_listed_in_pages_and_seen_by_their_key_alone(start: Start) -> None:
    async with start(api_keys=("one", "two")) as gateway:
        gateway.client.headers["authorization"] = "Bearer one"
        made = [await send(gateway, jsonl(chat_line("a"))) for _ in range(3)]
        page = (await gateway.client.get("/v1/batches", params={"limit": 2})).json()
        assert [each["id"] for each in page["data"]] == [made[2]["id"], made[1]["id"]]
        assert page["has_more"]
        rest = (await gateway.client.get("/v1/batches", params={"after": page["last_id"]})).json()
        assert [each["id"] for each in rest["data"]] == [made[0]["id"]]
        done = await until(gateway, made[0], "completed")
        gateway.client.headers["authorization"] = "Bearer two"
        assert (await gateway.client.get("/v1/batches")).json()["data"] == []
        for answer in (
            await gateway.client.get(f"/v1/batches/{done['id']}"),
            await gateway.client.post(f"/v1/batches/{done['id']}/cancel"),
            await gateway.client.get(f"/v1/files/{done['output_file_id']}/content"),
            await gateway.client.post(
                "/v1/batches", json={"input_file_id": done["input_file_id"], "endpoint": CHAT}
            ),
        ):
            assert answer.status_code == 404


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"input_file_id": "file-none"}, 404, "input_file_id"),
        ({"endpoint": "/v1/audio/speech"}, 400, "endpoint"),
        ({"completion_window": "soon"}, 400, "completion_window"),
        ({"completion_window": "90d"}, 400, "completion_window"),
        ({"metadata": {"a": 1}}, 400, "metadata.a"),
        ({"metadata": {str(n): "x" for n in range(17)}}, 400, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, 400, "output_expires_after.seconds"),
    ],
)
async def test_a_batch_that_cannot_be_made_is_refused(
    gateway: Gateway, change: Json, status: int, param: str
) -> None:
    file = await gateway.client.post(
        "/v1/files", files={"file": ("a", jsonl(chat_line("a")))}, data={"purpose": "batch"}
    )
    body = {"input_file_id": file.json()["id"], "endpoint": CHAT, "completion_window": "24h", **change}
    answer = await gateway.client.post("/v1/batches", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
    assert names(files_of(gateway).folder) == [file.json()["id"]]


async def test_a_wrong_window_is_told_by_an_example_and_an_unknown_field_by_its_name(gateway: Gateway) -> None:
    form = {"files": {"file": ("a", jsonl(chat_line("a")))}, "data": {"purpose": "batch"}}
    file = (await gateway.client.post("/v1/files", **form)).json()["id"]  # type: ignore[arg-type]
    body = {"input_file_id": file, "endpoint": CHAT}
    for window in ("24", "soon", "٢h", "0h"):
        answer = await gateway.client.post("/v1/batches", json={**body, "completion_window": window})
        assert answer.status_code == 400
        assert "such as '24h'" in answer.json()["error"]["message"]
    more = {"priority": "high", "x": None, "metadata": None}
    made = await gateway.client.post("/v1/batches", json={**body, **more})
    assert (made.status_code, made.headers["x-roundhouse-dropped"]) == (200, "priority")
    plain = await gateway.client.post("/v1/batches", json=body)
    assert "x-roundhouse-dropped" not in plain.headers


async def test_a_file_of_another_purpose_is_no_input(gateway: Gateway) -> None:
    file = await gateway.client.post("/v1/files", files={"file": ("a", b"{}")}, data={"purpose": "user_data"})
    body = {"input_file_id": file.json()["id"], "endpoint": CHAT}
    answer = await gateway.client.post("/v1/batches", json=body)
    assert answer.status_code == 400
    assert "'batch'" in answer.json()["error"]["message"]


async def test_results_expire_as_the_batch_says(gateway: Gateway) -> None:
    batch = await send(
        gateway, jsonl(chat_line("a")), output_expires_after={"anchor": "created_at", "seconds": 3600}
    )
    done = await until(gateway, batch, "completed")
    file = (await gateway.client.get(f"/v1/files/{done['output_file_id']}")).json()
    assert abs(file["expires_at"] - file["created_at"] - 3600) <= 1


async def test_the_batch_of_a_revoked_key_asks_no_more(gateway: Gateway) -> None:
    await gateway.keys.create("admin", admin=True)
    key = await gateway.keys.create("mine")
    gateway.client.headers["authorization"] = f"Bearer {key.secret}"
    gate = gateway.dispatcher.gate = asyncio.Event()
    works_of(gateway)["batch"]._concurrency = 1
    batch = await send(gateway, jsonl(chat_line("a"), chat_line("b")))
    await asyncio.wait_for(gateway.dispatcher.waiting.wait(), 20)
    await gateway.keys.revoke(key.info.id)
    gate.set()
    runtime = gateway.services.runtime
    assert runtime is not None
    async with asyncio.timeout(20):
        while (record := await runtime.storage.records.get("batch", batch["id"])) and record.status != "completed":
            await asyncio.sleep(0.01)
    assert record is not None
    assert record.body["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    path = files_of(gateway).path(record.body["error_file_id"])
    assert orjson.loads(path.read_bytes())["response"]["status_code"] == 401
