"""The fingerprint of a row: what was learned of a model ends with a change of its row or endpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from catalog.catalog import Catalog
from catalog.model import Endpoint, Model
from server.catalog_updates import LiveCatalog


def catalog(*, price: float = 1.0, url: str = "http://x/v1", capabilities: tuple[str, ...] = ("chat",)) -> Catalog:
    source: dict[str, Any] = {"kind": "upstream", "endpoint": "e", "model": "m"}
    row = {"id": "m", "capabilities": capabilities, "source": source, "price": {"input": price}}
    return Catalog.load(
        user_models=(Model.model_validate(row),), user_endpoints=(Endpoint(id="e", base_url=url),), pulled=()
    )


def test_a_fingerprint_is_of_the_content_of_row_and_endpoint() -> None:
    of = LiveCatalog(catalog()).fingerprint("m")
    assert of
    assert LiveCatalog(catalog()).fingerprint("m") == of
    assert LiveCatalog(catalog(price=2.0)).fingerprint("m") != of
    assert LiveCatalog(catalog(url="http://y/v1")).fingerprint("m") != of
    assert LiveCatalog(catalog(capabilities=("chat", "tools"))).fingerprint("m") != of
    many = ("chat", "tools", "vision", "json_schema", "reasoning")
    assert len({LiveCatalog(catalog(capabilities=order)).fingerprint("m") for order in (many, many[::-1])}) == 1


def test_a_fingerprint_follows_the_catalogue_in_force() -> None:
    live = LiveCatalog(catalog())
    before = live.fingerprint("m")
    live.current = replace(catalog(), version=7)
    assert live.fingerprint("m") == before
    live.current = catalog(price=3.0)
    assert live.fingerprint("m") != before
    assert live.fingerprint("nobody") == ""
