"""Filters of the catalogue."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from catalog.model import FREE, Capability, Model, PathSource, Price, Size, UpstreamSource
from server.models.filters import ModelFilter
from tests.server.conftest import Gateway
from tests.server.test_bad_input import error

GIB = 2**30
HERE = {"source": PathSource(path="/x"), "engine": "llamacpp", "price": FREE}
ROWS = (
    Model(id="small", capabilities=frozenset({Capability.CHAT}), size=Size(memory=GIB), **HERE),
    Model(
        id="large",
        capabilities=frozenset({Capability.CHAT, Capability.VISION}),
        size=Size(disk=8 * GIB),
        tags=frozenset({"mine", "big"}),
        **HERE,
    ),
    Model(id="unmeasured", capabilities=frozenset({Capability.CHAT}), **HERE),
    Model(
        id="cheap",
        capabilities=frozenset({Capability.CHAT, Capability.TOOLS}),
        source=UpstreamSource(endpoint="e", model="cheap"),
        price=Price(input=0.5, output=2),
        tags=frozenset({"mine"}),
    ),
    Model(
        id="vectors",
        capabilities=frozenset({Capability.EMBED}),
        source=UpstreamSource(endpoint="e", model="vectors"),
        price=Price(input=0.1),
    ),
    Model(
        id="unpriced", capabilities=frozenset({Capability.CHAT}), source=UpstreamSource(endpoint="e", model="u")
    ),
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"small", "large", "unmeasured", "cheap", "vectors", "unpriced"}),
        ({"capability": ["chat", "vision"]}, {"large"}),
        ({"local": True}, {"small", "large", "unmeasured"}),
        ({"local": False, "capability": ["embed"]}, {"vectors"}),
        ({"provider": "E"}, {"cheap", "vectors", "unpriced"}),
        ({"tags": ["mine"]}, {"large", "cheap"}),
        ({"tags": ["mine", "big"]}, {"large"}),
        ({"max_memory": "1GiB"}, {"small"}),
        ({"max_memory": "10 GiB"}, {"small", "large"}),
        ({"max_memory": str(GIB - 1)}, set()),
        ({"max_price": 0}, {"small", "large", "unmeasured"}),
        ({"max_price": 1}, {"small", "large", "unmeasured", "vectors"}),
        ({"max_price": 2}, {"small", "large", "unmeasured", "vectors", "cheap"}),
    ],
)
def test_a_model_passes_every_filter_or_is_left_out(given: dict[str, Any], expected: set[str]) -> None:
    assert {row.id for row in ModelFilter.model_validate(given).select(ROWS)} == expected


@pytest.mark.parametrize("size", ["", "8 PB", "-1", "GB", "1.5.2GB", "8GBi", "nan"])
def test_a_size_is_a_number_with_or_without_a_unit(size: str) -> None:
    with pytest.raises(ValidationError):
        ModelFilter.model_validate({"max_memory": size})


@pytest.mark.parametrize(("size", "count"), [("8GB", 8 * 10**9), ("8gib", 8 * GIB), ("1.5k", 1500), ("7", 7)])
def test_sizes_are_decimal_or_binary(size: str, count: int) -> None:
    assert ModelFilter.model_validate({"max_memory": size}).max_memory == count


def test_the_schema_of_a_size_admits_the_text_that_is_read() -> None:
    schema = ModelFilter.model_json_schema()["properties"]["max_memory"]
    assert {each["type"] for each in schema["anyOf"]} == {"integer", "string", "null"}


async def test_the_list_of_models_is_filtered(gateway: Gateway) -> None:
    async def listed(query: str) -> list[str]:
        return [row["id"] for row in (await gateway.client.get(f"/v1/models?{query}")).json()["data"]]

    assert await listed("capability=chat&local=true") == ["parrot"]
    assert await listed("capability=chat,completion") == ["parrot"]
    assert await listed("capability=chat&capability=embed") == []
    assert await listed("local=false&all=true") == ["cloud/oracle"]
    assert "auto" not in await listed("local=true")
    assert "auto" in await listed("all=true&api-version=2024-10-21")
    anthropic = {"anthropic-version": "2023-06-01"}
    page = await gateway.client.get("/v1/models?limit=1&beta=true", headers=anthropic)
    assert len(page.json()["data"]) == 1
    for query, param in (
        ("capability=fly", "capability"),
        ("max_memory=much", "max_memory"),
        ("local=x", "local"),
        ("capabilty=embed", "capabilty"),
        ("limit=3", "limit"),
    ):
        refused = await gateway.client.get(f"/v1/models?{query}")
        error(refused, 400, "invalid_request")
        assert refused.json()["error"]["param"].startswith(param)
