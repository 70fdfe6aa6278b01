"""Dated names of models, and listed rows that take over what is known of their model."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from catalog.catalog import Catalog
from catalog.discovery import discovered_row, undated
from catalog.errors import ModelNotFound
from catalog.index import Index
from catalog.model import Capability, Endpoint, Limits, Model, Price, UpstreamSource

HOME = Endpoint(id="anthropic", protocol="anthropic", base_url="https://api.anthropic.com")
PROXY = Endpoint(id="proxy", protocol="anthropic", base_url="https://claude.example.com")
BEDROCK = Endpoint(id="aws", protocol="bedrock", region="us-east-1")
LAN = Endpoint(id="lan", protocol="anthropic", base_url="http://10.0.0.2", private=True)
OTHER = Endpoint(id="other", protocol="openai", base_url="https://example.com/v1")
KNOWN = Capability.CHAT, Capability.TOOLS, Capability.REASONING, Capability.WEB_SEARCH


def row(model_id: str, *, there: str | None = None, at: str = "anthropic", **fields: Any) -> Model:
    source = UpstreamSource(endpoint=at, model=there or model_id)
    return Model(id=model_id, provider=at, capabilities=frozenset({Capability.CHAT}), source=source, **fields)


def catalog(*rows: Model) -> Catalog:
    return Catalog(own=rows, servers=(HOME, PROXY, BEDROCK, LAN, OTHER))


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("claude-haiku-4-5@20251001", "claude-haiku-4-5"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-5-chat-latest", "gpt-5-chat"),
        ("claude-haiku-4-5", "claude-haiku-4-5"),
        ("llama-3-70b-8192", "llama-3-70b-8192"),
        ("model-12345678", "model-12345678"),
    ],
)
def test_the_date_of_a_snapshot_is_at_the_end_of_its_name(name: str, base: str) -> None:
    assert undated(name) == base


@pytest.mark.parametrize(
    "asked", ["claude-x-20251001", "Claude-X@20251001", "anthropic/claude-x-20251001", "claude-x-latest"]
)
def test_a_dated_name_is_the_row_without_a_date(asked: str) -> None:
    known = catalog(row("claude-x"))
    assert known.resolve(asked).id == "claude-x"
    index = Index(known, {}, resolver=known.replicas)
    assert index.meant(asked) == [0]


def test_an_undated_name_is_the_newest_row_with_a_date() -> None:
    known = catalog(row("claude-x-20250101"), row("claude-x-20251001"), row("mine", there="claude-x-20250601"))
    assert known.resolve("claude-x").id == "claude-x-20251001"
    assert known.resolve("claude-x-20250601").id == "mine", "a row of this very snapshot"


def test_another_date_is_another_model() -> None:
    with pytest.raises(ModelNotFound):
        catalog(row("claude-x-20250101")).resolve("claude-x-20251001")
    with pytest.raises(ModelNotFound):
        catalog(row("claude-x")).resolve("other/claude-x-20251001")


def test_a_row_of_the_very_name_and_the_users_own_come_first() -> None:
    known = catalog(row("claude-x"), row("claude-x-20251001"))
    assert known.resolve("claude-x-20251001").id == "claude-x-20251001"
    known = catalog(row("claude-x-20260101"), row("mine", there="claude-x-20250101", origin="user"))
    assert known.resolve("claude-x").id == "mine"


BASE = row("claude-x").model_copy(
    update={
        "capabilities": frozenset(KNOWN),
        "price": Price(input=1, output=5),
        "limits": Limits(context_window=100_000, max_output_tokens=64_000),
    }
)
BASE = Model.model_validate(
    {
        **BASE.model_dump(),
        "family": "claude-x",
        "parameters": {"tools"},
        "options": {"full_context_window": 10},
        "wire": "responses",
    }
)


def listed(server: Endpoint, name: str = "claude-x-20251001", **fields: Any) -> Model:
    found = discovered_row(server, name, context=1_000_000, **fields)
    assert found is not None
    known = catalog(BASE).with_discovered(server.id, [found])
    return known.discovered[server.id][0]


def test_a_listed_snapshot_has_the_features_limits_and_price_of_its_model() -> None:
    found = listed(HOME)
    assert (found.id, found.origin) == ("anthropic/claude-x-20251001", "discovered")
    assert found.capabilities == frozenset(KNOWN)
    assert (found.price, found.family, found.parameters) == (BASE.price, "claude-x", frozenset({"tools"}))
    assert found.wire == "responses"
    assert found.limits.context_window == 100_000, "the price holds for no longer prompt"
    assert found.tags >= {"discovered"}
    seeing = listed(HOME, capabilities=frozenset({Capability.CHAT, Capability.VISION}))
    assert seeing.capabilities == {*KNOWN, Capability.VISION}


def test_the_price_of_another_host_is_unknown() -> None:
    found = listed(PROXY)
    assert (found.price, found.family) == (Price(), "claude-x")
    assert (found.limits.context_window, found.limits.max_output_tokens) == (1_000_000, 64_000)
    assert (found.wire, found.options) == (None, {})


@pytest.mark.parametrize(
    "name", ["us.anthropic.claude-x-20251001-v1:0", "anthropic.claude-x-20251001-v1:0", "anthropic.claude-x-v2"]
)
def test_a_cloud_has_its_makers_model_by_a_longer_name(name: str) -> None:
    found = listed(BEDROCK, name, capabilities=frozenset({Capability.CHAT, Capability.VISION}))
    assert (found.family, found.price) == ("claude-x", Price())
    assert found.capabilities == {*(set(KNOWN) - {Capability.WEB_SEARCH}), Capability.VISION}


@pytest.mark.parametrize("server", [LAN, OTHER])
def test_a_private_model_or_one_of_another_protocol_is_its_own(server: Endpoint) -> None:
    found = listed(server)
    assert found.family is None
    assert found.capabilities == {Capability.CHAT, Capability.COMPLETION}


def test_a_listed_model_that_a_row_reaches_already_is_no_second_row() -> None:
    found = [discovered_row(HOME, name) for name in ("Claude-X", "claude-new")]
    known = catalog(BASE).with_discovered("anthropic", [one for one in found if one is not None])
    assert [one.id for one in known] == ["claude-x", "anthropic/claude-new"]
    assert known.with_discovered("anthropic", known.listed["anthropic"]) is known
    assert known.with_discovered("anthropic", known.discovered["anthropic"]) is known
    assert len(known.with_discovered("anthropic", ())) == 1


def test_the_end_and_the_api_of_a_model_hold_at_its_providers_host_and_its_own_end_wins() -> None:
    base = Model.model_validate({**BASE.model_dump(), "ends": "2027-01-22", "wire": "responses"})

    def of(server: Endpoint, **fields: Any) -> Model:
        found = discovered_row(server, "claude-x-20251001", **fields)
        assert found is not None
        return catalog(base).with_discovered(server.id, [found]).discovered[server.id][0]

    assert (str(of(HOME).ends), of(HOME).wire) == ("2027-01-22", "responses")
    assert (of(PROXY).ends, of(PROXY).wire) == (None, None)
    assert str(of(HOME, ends=date(2026, 12, 1)).ends) == "2026-12-01"


def test_a_deployment_of_azure_has_the_api_of_its_model_and_an_end_of_its_own() -> None:
    azure = Endpoint(id="azure", protocol="azure", base_url="https://mine.openai.azure.com")
    found = discovered_row(azure, "gpt-x-2026-01-02")
    assert found is not None
    base = row("gpt-x", at="other", wire="responses", ends=date(2027, 1, 22))
    known = Catalog(own=(base,), servers=(OTHER, azure)).with_discovered("azure", [found])
    (kept,) = known.discovered["azure"]
    assert (kept.wire, kept.ends) == ("responses", None)
