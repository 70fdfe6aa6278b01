"""Every answer, event and error has the shape that ``/openapi.json`` documents."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from httpx import Response
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from backends.wire.video.events import completed, progress
from catalog.errors import IdleTimeout, QueueFull, RoundhouseError
from catalog.types import Json
from server.api import ROUTERS
from server.edge.contracts import JSON_LINES, ContractRoute
from server.edge.sockets.passage import SOCKET_PATHS
from server.openapi import EVENT_SCHEMA
from tests.fakes.films import tiny_mp4
from tests.server.api.test_chat import BODY, events
from tests.server.asks import ASKS, CONSENT, MESSAGE, MESSAGES, SSE, UPLOAD, VIDEO, WAV, Ask
from tests.server.conftest import Gateway

ELSEWHERE = {
    ("/v1/images/files/{name}", "get"),
    ("/v1/admin/pins", "get"),
    ("/v1/admin/pins", "post"),
    ("/api/pull", "post"),
} | {
    ("/v1/models/{model_id:path}", "delete"),
    ("/v1/admin/keys/{key_id}", "delete"),
    ("/v1/admin/keys/{key_id}/rotate", "post"),
    ("/v1/models", "post"),
    ("/v1/models/pulls", "post"),
    ("/v1/models/pulls", "get"),
    ("/v1/models/pulls/{pull_id}", "get"),
    ("/v1/models/pulls/{pull_id}/cancel", "post"),
    ("/v1/admin/calibrations", "get"),
    ("/v1/admin/calibrations", "post"),
    ("/v1/admin/calibrations/{calibration_id}", "get"),
    ("/v1/admin/calibrations/{calibration_id}/cancel", "post"),
}
"""Endpoints that need the real router or a store: tests/server/api, models and calibration check their answers."""


@pytest.fixture
async def document(gateway: Gateway) -> Json:
    document: Json = (await gateway.client.get("/openapi.json")).json()
    return document


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def check(value: Any, schema: Json, document: Json) -> None:
    Draft202012Validator({**schema, "components": document["components"]}).validate(value)


async def a_batch(gateway: Gateway, ask: Ask, file_id: str) -> str:
    """The id of a batch: one that has ended, unless it is to be cancelled."""
    cancels = ask.path.endswith("/cancel")
    gateway.dispatcher.gate = asyncio.Event() if cancels else None
    if not ask.path.startswith("/v1/messages"):
        body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions"}
        made = await gateway.client.post("/v1/batches", json=body)
        return str(made.json()["id"])
    path = "/v1/messages/batches"
    made = (await gateway.client.post(path, json={"requests": [MESSAGE]})).json()
    async with asyncio.timeout(20):
        while not cancels and (await gateway.client.get(f"{path}/{made['id']}")).json()["ended_at"] is None:
            await asyncio.sleep(0.02)
    return str(made["id"])


async def stored(gateway: Gateway) -> dict[str, str]:
    """The ids of a background response, a conversation, its item, and a chat."""
    client = gateway.client
    asked = {"model": "parrot", "input": "Hi", "background": True}
    response = (await client.post("/v1/responses", json=asked)).json()
    conversation = (await client.post("/v1/conversations", json={"items": MESSAGES})).json()
    items = (await client.get(f"/v1/conversations/{conversation['id']}/items")).json()
    chat = {**BODY, "store": True, "metadata": {"a": "b"}}
    completion = (await client.post("/v1/chat/completions", json=chat)).json()
    return {
        "response_id": response["id"],
        "conversation_id": conversation["id"],
        "item_id": items["data"][0]["id"],
        "completion_id": completion["id"],
    }


async def a_video(gateway: Gateway) -> str:
    """The id of a finished video."""
    gateway.backend.video = (progress(50), tiny_mp4(), completed(2.0))
    name: str = (await gateway.client.post("/v1/videos", json=VIDEO)).json()["id"]
    async with asyncio.timeout(20):
        while (await gateway.client.get(f"/v1/videos/{name}")).json()["status"] != "completed":
            await asyncio.sleep(0.02)
    return name


async def of_voices(gateway: Gateway, ask: Ask, given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The request, and the ids of a consent and of a voice, which is a model's where it is to speak."""
    consents = [(await gateway.client.post("/v1/audio/voice_consents", **CONSENT)).json()["id"] for _ in range(2)]
    sent: Any = {"files": {"audio_sample": ("a", WAV)}, "data": {"name": "a", "consent": consents[0]}}
    made = (await gateway.client.post("/v1/audio/voices", **sent)).json()["id"]
    if given.get("data") == {"consent": "CONSENT"}:
        given = sent
    return given, {"consent_id": consents[1], "voice_id": "robin" if ask.media_type == "audio/mpeg" else made}


async def answer(gateway: Gateway, ask: Ask) -> Response:
    kept = await stored(gateway) if "_id}" in ask.path or ask.path == "/v1/chat/completions" else {}
    trace = (await gateway.client.post("/v1/chat/completions", json=BODY)).headers["x-roundhouse-trace"]
    file: Any = {"files": {"file": ("a", b"{}")}, "data": {"purpose": "batch"}}
    ids = {"trace_id": trace, "model_id": "parrot", **kept}
    ids["file_id"] = (await gateway.client.post("/v1/files", **file)).json()["id"]
    ids["upload_id"] = (await gateway.client.post("/v1/uploads", json=UPLOAD)).json()["id"]
    if "{batch_id}" in ask.path:
        ids["batch_id"] = await a_batch(gateway, ask, ids["file_id"])
    given = {**ask.given}
    if ask.path.startswith("/v1/videos"):
        ids["video_id"] = await a_video(gateway)
        if "video" in (given.get("json") or {}):
            given["json"] = {**given["json"], "video": {"id": ids["video_id"]}}
    if "/audio/voice" in ask.path:
        given, voices = await of_voices(gateway, ask, given)
        ids |= voices
    path = ask.path.format(**ids)
    if (given.get("json") or {}).get("input_file_id") == "FILE":
        given["json"] = {**given["json"], "input_file_id": ids["file_id"]}
    if "part_ids" in (given.get("json") or {}):
        parts = f"/v1/uploads/{ids['upload_id']}/parts"
        part = await gateway.client.post(parts, files={"data": ("a", b"{}")})
        given["json"] = {"part_ids": [part.json()["id"]]}
    if (given.get("json") or {}).get("trace") == "TRACE":
        given["json"] = {**given["json"], "trace": trace}
    return await gateway.client.request(ask.method, path, **given)


@pytest.mark.parametrize("ask", ASKS, ids=str)
async def test_an_answer_has_the_shape_that_the_document_promises(
    gateway: Gateway, document: Json, ask: Ask
) -> None:
    got = await answer(gateway, ask)
    assert got.status_code == 200, got.text
    assert got.headers["content-type"].partition(";")[0] == ask.media_type
    content = document["paths"][ask.path][ask.method]["responses"]["200"]["content"][ask.media_type]
    promised = content[EVENT_SCHEMA if ask.media_type in (SSE, JSON_LINES) else "schema"]
    if ask.media_type == SSE:
        told = [event for event in events(got.text) if event != "[DONE]"]
        assert told
        for event in told:
            check(event, promised, document)
    elif ask.media_type == JSON_LINES:
        lines = [orjson.loads(line) for line in got.text.splitlines()]
        assert lines[-1]["done"] is True
        for line in lines:
            check(line, promised, document)
    elif ask.media_type == "application/json":
        check(got.json(), promised, document)
    else:
        assert promised["type"] == "string"


def test_every_operation_and_media_type_of_the_document_is_asked_above() -> None:
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, ContractRoute)]
    promised = set()
    for route in routes:
        (method,) = (route.methods or set()) - {"HEAD"}
        if route.include_in_schema and (route.path, method.lower()) not in ELSEWHERE:
            contract = route.contract
            kinds = [*contract.media, *(["application/json"] if contract.answers is not None else [])]
            kinds += [SSE] if contract.streams is not None else []
            kinds += [JSON_LINES] if contract.lines is not None else []
            promised |= {(route.path_format, method.lower(), kind) for kind in kinds}
    assert {(ask.path, ask.method, ask.media_type) for ask in ASKS} == promised


async def test_every_route_of_the_app_has_a_contract(gateway: Gateway) -> None:
    others = [route for route in gateway.app.routes if not isinstance(route, ContractRoute)]
    assert {getattr(route, "path", "") for route in others} == SOCKET_PATHS


async def test_every_error_of_the_document_is_one_of_ours(document: Json) -> None:
    def tree(kind: type[RoundhouseError]) -> Iterator[type[RoundhouseError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from tree(child)

    codes: dict[str, set[str]] = {}
    for kind in tree(RoundhouseError):
        codes.setdefault(str(kind.status), set()).add(kind.code)
    for method, path, operation in operations(document):
        for status, told in operation["responses"].items():
            if status == "200":
                continue
            listed = told["description"].removeprefix("Codes: ").removesuffix(".").split(", ")
            assert set(listed) <= codes[status], (method, path, status)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/v1/chat/completions", IdleTimeout("late")),
        ("/v1/chat/completions", QueueFull("full")),
        ("/v1/messages", IdleTimeout("late")),
        ("/api/chat", IdleTimeout("late")),
    ],
    ids=["504", "429", "Anthropic's", "Ollama's"],
)
async def test_an_error_has_the_shape_and_status_that_the_document_promises(
    gateway: Gateway, document: Json, path: str, error: RoundhouseError
) -> None:
    gateway.backend.script = (error,)
    got = await gateway.client.post(path, json={**BODY, "max_tokens": 9})
    promised = document["paths"][path]["post"]["responses"][str(got.status_code)]
    assert error.code in promised["description"]
    check(got.json(), promised["content"]["application/json"]["schema"], document)


async def test_every_schema_of_the_document_is_complete(document: Json) -> None:
    """No answer is an empty schema, no reference dangles, and FastAPI's own 422 never occurs."""
    for method, path, operation in operations(document):
        assert "422" not in operation["responses"], path
        assert operation["summary"], path
        assert operation["description"], path
        for media in operation["responses"]["200"]["content"].values():
            assert media["schema"], (method, path)
    names = document["components"]["schemas"]
    text = orjson.dumps(document).decode()
    assert "HTTPValidationError" not in text
    references = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert references <= set(names)
    assert not [name for name in names if "__" in name], "two types of one name"


async def test_query_parameters_are_described_and_checked_alike(gateway: Gateway, document: Json) -> None:
    told = document["paths"]["/v1/admin/workers/{model_id}/log"]["get"]["parameters"]
    lines = next(parameter for parameter in told if parameter["name"] == "lines")
    assert (lines["in"], lines["schema"]["type"], lines["schema"]["maximum"]) == ("query", "integer", 10_000)
    refused = await gateway.client.get("/v1/admin/workers/parrot/log?lines=10001")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "lines")


async def test_the_document_is_not_found_where_it_is_switched_off(start: Any) -> None:
    async with start(server={"docs": False}) as gateway:
        for method in ("GET", "HEAD", "POST"):
            assert (await gateway.client.request(method, "/openapi.json")).status_code == 404


async def test_head_works_wherever_get_does(gateway: Gateway, document: Json) -> None:
    for method, path, _ in operations(document):
        if method == "get":
            path = path.format_map(defaultdict(lambda: "none", model_id="parrot"))
            plain, head = await gateway.client.get(path), await gateway.client.head(path)
            assert (head.status_code, head.headers["content-type"]) == (
                plain.status_code,
                plain.headers["content-type"],
            ), path


async def test_a_request_for_a_model_has_the_routing_that_it_may_ask_for(document: Json) -> None:
    schemas = document["components"]["schemas"]
    for name in ("ChatRequest", "ResponsesRequest", "MessagesRequest", "EmbeddingRequest"):
        assert schemas[name]["properties"]["routing"] == {"$ref": "#/components/schemas/IntentBody"}
    assert "max_cost" in schemas["IntentBody"]["properties"]
    assert "routing" not in schemas["IntentBody"]["properties"]


async def test_no_field_has_a_default(document: Json) -> None:
    """Generators of clients take a field with a default for one that is always there."""
    assert not re.search(rb'"default":(?!{"type")', orjson.dumps(document)), "a field may have this name"
    assert b'"x-default":' in orjson.dumps(document)


@pytest.mark.parametrize(
    "query",
    ["usage?start=1793491200", "usage?end=0", "usage?start=20261101", "admin/workers/parrot/log?lines=%2B5",
     "admin/workers/parrot/log?lines=5.0", "admin/workers/parrot/log?lines=1_0"],
)  # fmt: skip
async def test_query_parameters_take_one_spelling_of_a_value(gateway: Gateway, query: str) -> None:
    assert (await gateway.client.get(f"/v1/{query}")).status_code == 400


async def test_usage_up_to_the_first_day_of_all_is_an_empty_report(gateway: Gateway) -> None:
    assert (await gateway.client.get("/v1/usage?end=0001-01-01")).json()["data"] == []
