"""``strict`` at the top of a body means ``routing.strict`` on every endpoint that asks a model."""

from __future__ import annotations

from typing import Any

import pytest
from httpx import Response

from catalog.types import Json
from tests.server.asks import ASKS, CONSENT, Ask
from tests.server.conftest import Gateway

_OTHERS = ("/v1/route", "/api/show", "/v1/videos/edits", "/v1/videos/extensions")
"""Doors that open no job, and those that need a video that was made before."""


def _asks_a_model(ask: Ask) -> bool:
    body: Any = ask.given.get("json") or ask.given.get("data") or {}
    inner = isinstance(body, dict) and ("model" in body or ask.path in ("/embed", "/predict", "/similarity"))
    return ask.method == "post" and inner and ask.path not in _OTHERS and ask.given is not CONSENT


DOORS = list({ask.path: ask for ask in ASKS if _asks_a_model(ask)}.values())


async def send(gateway: Gateway, ask: Ask, **more: Any) -> Response:
    given: Json = dict(ask.given)
    place = "json" if "json" in given else "data"
    return await gateway.client.post(ask.path, **{**given, place: {**given[place], **more}})


@pytest.mark.parametrize("ask", DOORS, ids=str)
async def test_strict_at_the_top_of_a_body_is_the_routers_strict(gateway: Gateway, ask: Ask) -> None:
    assert (await send(gateway, ask)).is_success
    plain = gateway.dispatcher.facts[-1].intent
    assert not plain.strict
    asked = await send(gateway, ask, strict=True if "json" in ask.given else "true")
    assert asked.is_success, asked.text
    assert gateway.dispatcher.facts[-1].intent.strict
    assert "strict" not in asked.headers.get("x-roundhouse-dropped", "")


async def test_strict_that_is_neither_true_nor_false_is_refused(gateway: Gateway) -> None:
    body = {"model": "parrot", "messages": [{"role": "user", "content": "Hi"}], "strict": "yes"}
    refused = await gateway.client.post("/v1/chat/completions", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "strict"


async def test_strict_at_the_top_never_loosens_what_routing_asks_for(gateway: Gateway) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    body = {"model": "parrot", "messages": messages, "strict": False, "routing": {"strict": True}}
    assert (await gateway.client.post("/v1/chat/completions", json=body)).is_success
    assert gateway.dispatcher.facts[-1].intent.strict


_NO_MODEL: tuple[tuple[str, Json], ...] = (
    ("/v1/conversations", {}),
    ("/v1/uploads", {"filename": "a.jsonl", "purpose": "batch", "bytes": 1, "mime_type": "text/jsonl"}),
    ("/api/show", {"model": "parrot"}),
)


@pytest.mark.parametrize(("path", "body"), _NO_MODEL)
async def test_strict_refuses_an_unknown_field_where_no_model_is_asked(
    gateway: Gateway, path: str, body: Json
) -> None:
    wrong = {**body, "zzz_unknown": 1}
    told = await gateway.client.post(path, json={**wrong, "strict": False})
    assert told.is_success, told.text
    assert told.headers["x-roundhouse-dropped"] == "zzz_unknown"
    for more, headers in (
        ({"strict": True}, {}),
        ({"routing": {"strict": True}}, {}),
        ({}, {"x-roundhouse-strict": "true"}),
    ):
        refused = await gateway.client.post(path, json={**wrong, **more}, headers=headers)
        assert refused.status_code == 400, refused.text
        assert "zzz_unknown" in refused.text
        assert (await gateway.client.post(path, json={**body, **more}, headers=headers)).is_success


async def test_a_text_to_split_keeps_the_field_that_its_model_is_to_name_or_refuse(
    gateway: Gateway,
) -> None:
    body = {"model": "parrot", "content": "Hi", "zzz_unknown": 1, "strict": True}
    await gateway.client.post("/tokenize", json=body)
    assert gateway.backend.requests[-1].model_extra["zzz_unknown"] == 1
    assert gateway.dispatcher.facts[-1].intent.strict
