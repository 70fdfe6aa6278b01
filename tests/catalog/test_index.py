"""The compiled catalogue: names, columns, capabilities, and unknown prices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from catalog.errors import ModelNotFound
from catalog.index import Index
from catalog.model import Capability, Endpoint, Model, PathSource, Price, UpstreamSource


def remote(model_id: str, *, endpoint: str = "acme", **fields: Any) -> Model:
    source = UpstreamSource(endpoint=endpoint, model=model_id)
    return Model(**{"id": model_id, "provider": "acme", "capabilities": {"chat"}, "source": source, **fields})


def local(model_id: str, **fields: Any) -> Model:
    return remote(model_id, **{"source": PathSource(path=f"/{model_id}.gguf"), "engine": "llamacpp", **fields})


def test_a_name_resolves_by_id_before_name_before_alias_and_in_any_case() -> None:
    rows = [
        remote("alpha", aliases=("beta", "gamma")),
        remote("beta", name="gamma"),
        remote("delta", name="Delta Large", aliases=("d",)),
    ]
    index = Index(rows)
    assert index.resolve("BETA").id == "beta"
    assert index.resolve("gamma").id == "beta"
    assert index.resolve("delta large").id == "delta"
    assert index.resolve("D").id == "delta"
    assert index.resolve("acme/alpha").id == "alpha"


def test_an_unknown_name_is_not_found_and_the_nearest_are_named() -> None:
    index = Index([remote("smollm2-135m-instruct"), remote("gemma-3-270m")])
    with pytest.raises(ModelNotFound) as raised:
        index.resolve("smolm2-135m-instruct")
    assert raised.value.nearest == ("smollm2-135m-instruct",)


def test_a_missing_price_is_unknown_for_a_remote_row_and_nothing_for_a_local_one() -> None:
    index = Index([remote("far", price=Price(input=1.0)), local("near", price=Price())])
    assert np.isnan(index.prices["output"][0])
    assert index.prices["input"][0] == 1.0
    assert index.prices["output"][1] == 0.0


def test_rows_are_capable_only_of_every_capability_asked_for() -> None:
    both = frozenset({Capability.CHAT, Capability.TOOLS})
    index = Index([remote("plain"), remote("tools", capabilities=both)])
    assert index.capable([Capability.CHAT]).tolist() == [True, True]
    assert index.capable([Capability.CHAT, Capability.TOOLS]).tolist() == [False, True]
    assert index.names_capable([Capability.TOOLS]) == ["tools"]


def test_endpoints_lend_their_tags_their_privacy_and_their_failure_domain() -> None:
    home = Endpoint(
        id="home", base_url="http://10.0.0.2", private=True, tags=frozenset({"eu"}), failure_domain="rack"
    )
    index = Index([remote("a", endpoint="home"), remote("b", endpoint="cloud"), local("c")], {"home": home})
    assert index.private.tolist() == [True, False, True]
    assert index.tagged("eu").tolist() == [True, False, False]
    assert index.domains == ("rack", "cloud", "worker/c")


def test_an_unknown_tag_matches_no_row_and_is_not_remembered() -> None:
    index = Index([remote("a", tags=frozenset({"eu"}))])
    for number in range(1000):
        assert not index.tagged(f"unknown-{number}").any()
    assert len(index._tagged) == 0


def test_two_rows_of_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="same id"):
        Index([remote("a"), remote("a")])
