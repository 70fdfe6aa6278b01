"""Paths with and without ``/v1``: clients differ in whether their base URL has it."""

from __future__ import annotations

import pytest

from catalog.types import Json
from server.api import ROUTERS
from server.edge.contracts import ContractRoute
from tests.server.conftest import Gateway
from tests.server.edge.test_hot_path import HOT

ROUTES = [route for router in ROUTERS for route in router.routes if isinstance(route, ContractRoute)]


def test_every_path_is_also_there_without_v1_but_an_administrators_and_cohere() -> None:
    paths = {(method, route.path) for route in ROUTES for method in route.methods or ()}
    for route in ROUTES:
        if route.path.startswith("/v1/") and route.path != "/v1/embed":  # /embed is TEI's
            for method in route.methods or ():
                assert ((method, route.path.removeprefix("/v1")) in paths) is not route.contract.admin


@pytest.mark.parametrize("path", HOT)
async def test_an_answer_is_the_same_without_v1(gateway: Gateway, path: str) -> None:
    body: Json = {"model": "parrot", **HOT[path]}
    whole, short = [await gateway.client.post(at, json=body) for at in (path, path.removeprefix("/v1"))]
    assert whole.status_code == short.status_code == 200
    assert short.json().keys() == whole.json().keys()


async def test_a_method_that_a_short_path_does_not_take_is_refused_as_at_the_long_one(gateway: Gateway) -> None:
    answer = await gateway.client.get("/embeddings")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_an_error_at_the_short_path_of_messages_has_anthropics_shape(gateway: Gateway) -> None:
    refused = await gateway.client.post("/messages", json={})
    assert (refused.status_code, refused.json()["type"]) == (400, "error")


async def test_the_document_tells_each_path_once(gateway: Gateway) -> None:
    told = (await gateway.client.get("/openapi.json")).json()["paths"]
    assert "/v1/chat/completions" in told
    assert "/chat/completions" not in told
