"""Names, ids, aliases and replicas in the catalogue, and mistakes in rows."""

from __future__ import annotations

from typing import Any

import pytest

from catalog.catalog import Catalog
from catalog.errors import ConfigurationError, ModelNotFound, NotFound
from catalog.model import FREE, Capability, Model, PackageSource, PathSource, UpstreamSource
from catalog.prices.rates import KNOWN_TIERS


def table(model_id: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": model_id,
        "capabilities": ["chat"],
        "engine": "llamacpp",
        "source": {"kind": "path", "path": f"~/{model_id}.gguf"},
        **fields,
    }


def catalog(*tables: dict[str, Any], **settings: Any) -> Catalog:
    return Catalog.load(user_models=tables, builtin=False, **settings)


def test_the_starter_models_are_built_in_and_pinned() -> None:
    rows = Catalog.builtin().models(tags=["starter"])
    assert {row.id for row in rows if not row.optional} == {
        "smollm2-135m-instruct",
        "all-minilm-l6-v2",
        "whisper-tiny.en",
        "whisper-base",
        "resemblyzer",
        "hibari",
        "kokoro",
        "doodle",
    }
    assert {row.id for row in rows if row.optional} == {"gemma-3-270m", "all-minilm-l6-v2-int8"}
    for row in rows:
        if isinstance(row.source, PackageSource):
            assert row.source.sha256, f"{row.id} pins no finished file"


def test_every_built_in_row_has_an_endpoint_or_an_engine() -> None:
    built_in = Catalog.builtin()
    for row in built_in:
        if isinstance(row.source, UpstreamSource):
            assert built_in.endpoint(row.source.endpoint).key_env, row.id
            assert row.engine is None, row.id
        else:
            assert row.engine, row.id
        assert row.endpoints, row.id


def test_a_name_is_looked_up_by_id_then_name_then_alias_whatever_the_case() -> None:
    found = catalog(
        table("one", name="two", aliases=["three"]),
        table("two", name="three"),
        table("three", aliases=["four"]),
    )
    assert found.resolve("TWO").id == "two"
    assert found.resolve("Three").id == "three"
    assert found.resolve("FOUR").id == "three"


def test_an_alias_never_hides_another_models_name() -> None:
    found = catalog(table("a", aliases=["nice"]), table("b", name="Nice"))
    assert found.resolve("nice").id == "b"


def test_provider_and_model_name_it_among_one_providers() -> None:
    found = catalog(table("small", provider="acme", aliases=["s"]), table("s", provider="other"))
    assert found.resolve("acme/s").id == "small"
    assert found.resolve("OTHER/s").id == "s"
    with pytest.raises(ModelNotFound):
        found.resolve("nobody/s")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ModelNotFound) as caught:
        Catalog.builtin().resolve("smollm2-135m-instrukt")
    assert caught.value.nearest[0] == "smollm2-135m-instruct"
    assert caught.value.status == 404
    with pytest.raises(ModelNotFound) as caught:
        Catalog.builtin().resolve("zzzzzzzz")
    assert caught.value.nearest == ()


def test_the_users_row_comes_before_the_built_in_one_and_may_say_only_what_differs() -> None:
    found = Catalog.load(user_models=[{"id": "claude-haiku-4-5", "price": {"input": 0.5, "output": 2.5}}])
    row = found.resolve("claude-haiku-4-5")
    assert (row.price.input, row.origin) == (0.5, "user")
    assert row.capabilities == Catalog.builtin().resolve("claude-haiku-4-5").capabilities


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (table("a", contxt=1), r"\[\[model\]\] 'a': contxt: there is no such field"),
        ({"id": "a", "capabilities": ["chat"]}, r"'a': source: this field is needed"),
        (table("a", capabilities=["fly"]), r"'a': capabilities\.0: .*'fly'"),
        (table("a", limits={"context_window": -1}), r"'a': limits\.context_window: .*-1"),
        (table("a", price={"input": -3}), r"'a': price\.input: "),
        (table("a", price={"tiers": {"flex": -1.0}}), r"'a': price\.tiers\.flex: .*at least 0"),
        (table(""), r"'without an id': id: "),
        (table("../a"), r"'\.\./a': id: "),
        (table("a", source={"kind": "hub", "repository": "nothing"}), r"'a': source\.hub\.repository: "),
        (table("a", source={"kind": "upstream", "endpoint": "x", "model": "y"}), r"no \[\[endpoint\]\] 'x'"),
    ],
)
def test_a_mistake_in_a_row_is_one_line_that_names_row_and_field(row: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        catalog(row)
    assert "\n" not in caught.value.message


def test_an_id_given_twice_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match="given twice"):
        catalog(table("a"), table("A"))


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "models.example/v1",
        "ftp://models.example",
        "http://",
        "http://host:port/v1",
        "https://models.example/v1?key=1",
        "https://user:planted-secret@models.example/v1",
        "https://planted-secret@models.example/v1",
    ],
)
def test_an_address_that_is_none_or_has_a_password_is_refused_without_repeating_the_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"\[\[endpoint\]\] 'x': base_url") as refused:
        Catalog.load(user_endpoints=[{"id": "x", "base_url": url}])
    assert "planted-secret" not in refused.value.message


@pytest.mark.parametrize(
    "fields", [{"id": "auto"}, {"id": "Auto:mine"}, {"aliases": ["auto"]}, {"name": "AUTO:fast"}]
)
def test_no_model_has_a_name_of_the_routers(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="the router's own names"):
        catalog(table("m") | fields)


def test_no_endpoint_has_the_name_of_this_machine() -> None:
    with pytest.raises(ConfigurationError, match="means this machine"):
        Catalog.load(user_endpoints=[{"id": "local", "base_url": "http://x/v1"}])


def test_an_alias_of_the_users_wins_over_every_name_of_a_built_in_row() -> None:
    remote = next(row for row in Catalog.builtin() if not row.local and row.aliases)
    own = table("mine", aliases=[remote.id, remote.aliases[0]])
    found = Catalog.load(user_models=[own])
    assert [found.resolve(name).id for name in (remote.id, remote.aliases[0], "mine")] == ["mine"] * 3
    assert found.get(remote.id) == remote
    renamed = Catalog.load(user_models=[own, table(remote.id)])
    assert renamed.resolve(remote.id).id == remote.id, "the user's own id wins over the user's alias"


def test_an_alias_that_is_an_id_is_remarked_on_with_what_the_name_means_now() -> None:
    remote = next(row for row in Catalog.builtin() if not row.local)
    own = table("mine", aliases=[remote.id, "mine", "free"])
    (remark,) = Catalog.load(user_models=[own]).remarks()
    assert f"'mine': the alias '{remote.id}'" in remark
    assert f"'{remote.provider}/{remote.id}'" in remark
    (remark,) = Catalog.load(user_models=[own, table(remote.id)]).remarks()
    assert "which keeps it" in remark


def test_a_tier_that_no_provider_has_is_remarked_on_with_the_nearest_name() -> None:
    tiers = {"bacth": 0.5, "Flex": 0.5, "default": 0.5, "batch": 0.5}
    remarks = catalog(table("a", price={"tiers": tiers})).remarks()
    assert [text.partition("has a tier ")[2] for text in remarks] == [
        "'bacth'. Did you mean 'batch'?",
        "'Flex'. Did you mean 'flex'?",
        "'default'.",
    ]


def test_the_built_in_rows_have_no_tier_that_is_unknown() -> None:
    assert {tier for row in Catalog.builtin() for tier in row.price.tiers} <= KNOWN_TIERS


def test_an_endpoint_of_the_users_is_merged_and_an_unknown_one_is_not_found() -> None:
    found = Catalog.load(user_endpoints=[{"id": "openai", "base_url": "http://proxy.local/v1"}])
    assert found.endpoint("openai").base_url == "http://proxy.local/v1"
    assert found.endpoint("openai").key_env == ("OPENAI_API_KEY",)
    with pytest.raises(NotFound):
        found.endpoint("nowhere")
    with pytest.raises(ConfigurationError, match=r"\[\[endpoint\]\] 'x': base_url: this field is needed"):
        Catalog.load(user_endpoints=[{"id": "x"}])


def test_filters_combine_and_an_unknown_figure_does_not_pass() -> None:
    found = catalog(
        table("cheap", price={"input": 1, "output": 2}, size={"disk": 10}, tags=["x"]),
        table("dear", price={"input": 9, "output": 9}, size={"disk": 10}, tags=["x"]),
        table("unknown", tags=["x"]),
        table("embedder", capabilities=["embed"], performance={"latency_p50_ms": 5}),
    )

    def ids(**filters: Any) -> list[str]:
        return [row.id for row in found.models(**filters)]

    assert ids(max_input_price=5) == ["cheap"]
    assert ids(tags=["x"], max_disk=10) == ["cheap", "dear"]
    assert ids(capabilities=[Capability.EMBED]) == ["embedder"]
    assert ids(max_latency_ms=5) == ["embedder"]
    assert ids(local=False) == []
    assert ids(provider="LOCAL", available=lambda row: row.id != "dear", max_output_price=100) == ["cheap"]


def test_a_missing_price_is_unknown_and_not_free() -> None:
    known = catalog(table("m"))
    assert known.resolve("m").price.input is None
    assert not known.models(max_input_price=1e9)


def test_a_row_of_another_server_has_no_price_of_a_row_of_this_machine() -> None:
    pulled = Model(**table("both"), origin="pulled")
    there = {"id": "both", "source": {"kind": "upstream", "endpoint": "cloud", "model": "big"}}
    cloud = {"id": "cloud", "base_url": "https://api.example.com/v1"}
    found = catalog(there, user_endpoints=[cloud], pulled=[pulled.model_copy(update={"price": FREE})])
    assert found.resolve("both").price.input is None


@pytest.mark.parametrize(
    ("private", "price", "known"), [(True, {}, 0), (False, {}, None), (True, {"input": 2}, 2)]
)
def test_a_row_without_a_price_is_free_at_a_private_endpoint(
    private: bool, price: dict[str, float], known: float | None
) -> None:
    endpoint = {"id": "lab", "base_url": "http://10.0.0.7/v1", "private": private}
    source = {"kind": "upstream", "endpoint": "lab", "model": "m"}
    row = {"id": "lab/m", "capabilities": ["chat"], "source": source, "price": price}
    assert Catalog.load(user_models=[row], user_endpoints=[endpoint]).resolve("lab/m").price.input == known


def test_a_key_in_place_of_its_variable_is_refused_and_not_repeated() -> None:
    endpoint = {"id": "lab", "base_url": "http://10.0.0.7/v1", "key_env": ["sk-secret-99"]}
    with pytest.raises(ConfigurationError, match="names of environment variables") as refused:
        Catalog.load(user_endpoints=[endpoint])
    assert "sk-secret-99" not in refused.value.message


def found_row(model_id: str) -> Model:
    return Model(id=model_id, capabilities=frozenset({Capability.CHAT}), source=PathSource(path="/x"))


def test_discovered_rows_replace_what_their_source_had_and_vanish_with_it() -> None:
    first = catalog(table("mine"))
    second = first.with_discovered("ollama", [found_row("a"), found_row("b")])
    third = second.with_discovered("ollama", [found_row("b")])
    gone = third.with_discovered("ollama", [])
    assert [len(c) for c in (first, second, third, gone)] == [1, 3, 2, 1]
    assert [c.version for c in (first, second, third, gone)] == [1, 2, 3, 4]
    assert second.resolve("a").origin == "discovered"
    assert third.get("a") is None


def test_a_refresh_that_finds_the_same_is_not_a_change() -> None:
    found = catalog().with_discovered("ollama", [found_row("a")])
    assert found.with_discovered("ollama", [found_row("a")]) is found


def test_a_discovered_row_never_hides_one_that_was_written() -> None:
    found = catalog(table("mine")).with_discovered("ollama", [found_row("mine")])
    assert found.resolve("mine").origin == "user"


def test_on_apple_silicon_a_gguf_row_gives_way_to_its_mlx_twin() -> None:
    rows = [
        table("gguf", family="q", version="3", size={"parameters": 7}),
        table("mlx", family="q", version="3", size={"parameters": 7}, engine="mlx"),
        table("named", mlx_twin="mlx"),
    ]
    elsewhere = catalog(*rows)
    apple = Catalog(own=elsewhere.own, apple_silicon=True)
    assert elsewhere.apple_silicon or elsewhere.resolve("gguf").id == "gguf"
    assert apple.resolve("gguf").id == "mlx"
    assert apple.resolve("named").id == "mlx"


def discovered(model_id: str, **fields: Any) -> Model:
    return Model.model_validate(table(model_id, **fields))


def test_rows_that_carry_one_name_are_replicas_and_an_id_is_one_model() -> None:
    found = catalog(table("a/m", aliases=("m",)), table("b/m", aliases=("M",)), table("other"))
    assert [r.id for r in found.replicas("m")] == ["a/m", "b/m"]
    assert found.resolve("m").id == "a/m"
    assert [r.id for r in found.replicas("b/m")] == ["b/m"]


def test_a_provider_before_the_name_leaves_that_providers_replicas() -> None:
    found = catalog(table("a/m", aliases=("m",), provider="acme"), table("b/m", aliases=("m",), provider="other"))
    assert [r.id for r in found.replicas("acme/m")] == ["a/m"]


def test_what_a_server_calls_its_models_joins_no_group_that_somebody_wrote() -> None:
    found = catalog(table("mine", aliases=("m",))).with_discovered("lan", [discovered("lan/m", aliases=("m",))])
    assert [r.id for r in found.replicas("m")] == ["mine"]
    both = (
        catalog()
        .with_discovered("x", [discovered("x/m", aliases=("m",))])
        .with_discovered("y", [discovered("y/m", aliases=("m",))])
    )
    assert [r.id for r in both.replicas("m")] == ["x/m", "y/m"]


def test_the_users_own_alias_goes_before_a_built_in_one() -> None:
    builtin = next(r for r in Catalog.builtin() if r.aliases)
    mine = table("mine", aliases=(builtin.aliases[0],))
    assert [r.id for r in Catalog.load(user_models=[mine]).replicas(builtin.aliases[0])] == ["mine"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"limits": {"context_window": True}}, "a number, and not true or false"),
        ({"price": {"input": True}}, "a number, and not true or false"),
        ({"source": {"kind": "path", "path": "~no-such-user/x.gguf"}}, "no user's home folder"),
        ({"source": {"kind": "path", "path": ""}}, "it is empty"),
    ],
)
def test_a_row_without_meaning_is_refused(fields: dict[str, Any], says: str) -> None:
    row = {"id": "a", "source": {"kind": "upstream", "endpoint": "e", "model": "m"}, "capabilities": ["chat"]}
    with pytest.raises(ValueError, match=says):
        Model.model_validate({**row, **fields})


@pytest.mark.parametrize("model_id", ["a/../b", "a/.", "a/..", "a/./b"])
def test_no_part_of_an_id_is_a_step_of_a_path(model_id: str) -> None:
    with pytest.raises(ConfigurationError, match=r"'\.' and '\.\.' between slashes"):
        catalog(table(model_id))
