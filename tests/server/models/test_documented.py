"""Answers about rows and pulls have the shapes that ``/openapi.json`` promises."""

from __future__ import annotations

from typing import Any

from catalog.types import Json
from server.openapi import EVENT_SCHEMA
from tests.server.asks import SSE
from tests.server.models.conftest import ADDRESS, TINY, Shop
from tests.server.models.test_pulls import PULLS, events
from tests.server.test_openapi import check


async def test_rows_and_pulls_are_answered_as_documented(shop: Shop) -> None:
    document: Json = (await shop.client.get("/openapi.json")).json()

    def promised(path: str, method: str, media: str = "application/json") -> Any:
        return document["paths"][path][method]["responses"]["200"]["content"][media]

    def fits(value: Any, path: str, method: str) -> None:
        check(value, promised(path, method)["schema"], document)

    fits((await shop.client.post("/v1/models", json=TINY)).json(), "/v1/models", "post")
    streamed = await shop.client.post(PULLS, json={"model": ADDRESS, "stream": True})
    told = events(streamed.text)
    for event in told:
        check(event, promised(PULLS, "post", SSE)[EVENT_SCHEMA], document)
    name = told[0]["id"]
    for event in events((await shop.client.get(f"{PULLS}/{name}?stream=true")).text):
        check(event, promised(f"{PULLS}/{{pull_id}}", "get", SSE)[EVENT_SCHEMA], document)
    fits((await shop.client.post(PULLS, json={"model": ADDRESS})).json(), PULLS, "post")
    fits((await shop.client.get(PULLS)).json(), PULLS, "get")
    fits((await shop.client.get(f"{PULLS}/{name}")).json(), f"{PULLS}/{{pull_id}}", "get")
    failing = (await shop.client.post(PULLS, json={"model": "hub:no/such"})).json()
    fits(await shop.ended(failing["id"]), f"{PULLS}/{{pull_id}}", "get")
    fits((await shop.client.get("/v1/models?local=true")).json(), "/v1/models", "get")
    fits((await shop.client.delete("/v1/models/tiny?files=true")).json(), "/v1/models/{model_id}", "delete")
