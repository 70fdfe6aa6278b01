"""The rules that exclude models, and the cache of their results."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from backends.wire.images import ImageRequest
from backends.workers.pool import DeviceView, PoolSnapshot
from catalog.catalog import Catalog
from catalog.errors import InvalidRequest, ModelNotFound
from catalog.index import Index
from catalog.model import Capability, Endpoint, Limits, Model, Price, Size
from catalog.prices.price import LongPrices
from routing.choosing.filters import admit, admitted_rows
from routing.choosing.policy import plan
from routing.choosing.world import World
from routing.facts import Facts, Intent, Mode
from routing.plan import Block
from routing.reading.requests import read_image
from routing.settings import SpeechPolicy
from tests.routing.catalogue import SETTINGS, chat, local, remote, rng, world
from tests.routing.choosing.plans import choose, codes


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        (chat(features=frozenset({Capability.TOOLS})), "capability"),
        (chat(require=frozenset({Capability.REASONING})), "capability"),
        (chat(prompt_tokens=9000), "context"),
        (chat(prompt_tokens=8000, output_tokens=500), "context"),
        (chat(local_only=True), "privacy"),
        (chat(mode=Mode.LOCAL), "privacy"),
        (chat(tags=frozenset({"eu"})), "tags"),
        (chat(exclude=frozenset({"M"})), "excluded"),
        (chat(max_cost=1e-9), "cost"),
    ],
)
def test_each_filter_excludes_and_keeps_its_code_and_a_reason(facts: Facts, code: str) -> None:
    made = choose(facts, world([remote("m")]))
    assert not made.candidates
    assert codes(made) == {"m": code}
    assert made.excluded[0].reason
    assert code in made.reason


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("A", {"b", "c", "own"}),
        ("Big", {"c", "own"}),
        ("large", {"own"}),
        ("far", {"c", "own"}),
        ("acme", {"c", "own"}),
        ("acme/large", {"c", "own"}),
        ("near", {"a", "b", "own"}),
        ("local", {"a", "b", "c"}),
        ("empty", {"a", "b", "c", "own"}),
        ("lan/gone", {"a", "b", "c", "own"}),
    ],
)
def test_an_excluded_name_means_every_row_of_that_id_name_alias_endpoint_or_provider(
    name: str, left: set[str]
) -> None:
    rows = [
        remote("a", name="big", aliases=("large",), endpoint="far"),
        remote("b", name="big", aliases=("large",), endpoint="far"),
        remote("c", aliases=("large",), endpoint="near", provider="local"),
        local("own", provider="local"),
    ]
    servers = [
        Endpoint(id=each, base_url="http://x/v1", discover=each == "lan")
        for each in ("far", "near", "empty", "lan")
    ]
    made = choose(chat(exclude=frozenset({name})), world(rows, servers))
    assert {candidate.model.id for candidate in made.candidates} == left
    assert set(codes(made).values()) <= {"excluded"}


def test_an_excluded_name_is_looked_up_as_the_catalogue_does_too() -> None:
    rows = [remote("gguf", endpoint="far"), remote("twin", endpoint="far"), remote("other", endpoint="far")]

    def resolver(name: str) -> list[Model]:
        if name != "gguf":
            raise ModelNotFound(name)
        return [rows[1]]

    here = world(rows, [Endpoint(id="far", base_url="http://x/v1")])
    index = Index(rows, here.index.endpoints, resolver=resolver)
    here.estimator.align(index)
    made = choose(chat(exclude=frozenset({"gguf"})), replace(here, index=index))
    assert [candidate.model.id for candidate in made.candidates] == ["other"]


@pytest.mark.parametrize("requested", ["auto", "m"])
@pytest.mark.parametrize("name", ["nonsense", "", "far/nonsense"])
def test_an_excluded_name_that_means_nothing_is_refused(requested: str, name: str) -> None:
    here = world([remote("m", endpoint="far")], [Endpoint(id="far", base_url="http://x/v1")])
    with pytest.raises(InvalidRequest) as raised:
        choose(chat(requested=requested, exclude=frozenset({"m", name})), here)
    assert raised.value.param == "routing.exclude"
    assert f"'{name}'" in raised.value.message


def test_a_model_that_gives_shorter_answers_than_are_asked_for_is_no_candidate_unless_it_is_named() -> None:
    short = remote("short").model_copy(update={"limits": Limits(context_window=100_000, max_output_tokens=4096)})
    here = world([short, remote("m").model_copy(update={"limits": Limits(context_window=100_000)})])
    for tokens, left in ((4096, {"short", "m"}), (4097, {"m"}), (None, {"short", "m"}), (4096, {"short", "m"})):
        made = choose(chat(output_tokens=tokens), here)
        assert {candidate.model.id for candidate in made.candidates} == left
    assert codes(choose(chat(output_tokens=4097), here)) == {"short": "max_tokens"}
    named = plan(chat(output_tokens=4097, requested="short"), here, SETTINGS, rng())
    assert [candidate.model.id for candidate in named.candidates] == ["short"]


def test_an_unknown_price_is_excluded_by_a_limit_on_cost_and_by_a_spending_cap_and_by_nothing_else() -> None:
    here = world([remote("unknown", price=Price()), remote("known"), local("own")])
    assert codes(choose(chat(max_cost=1.0), here)) == {"unknown": "price_unknown"}
    capped = World(index=here.index, estimator=here.estimator, now=0.0, headroom=5.0)
    assert codes(choose(chat(), capped)) == {"unknown": "price_unknown"}
    assert codes(choose(chat(), here)) == {}
    allowed = replace(capped, unknown_price_allowed=True)
    assert codes(choose(chat(), allowed)) == {}
    assert codes(choose(chat(max_cost=1.0), allowed)) == {"unknown": "price_unknown"}


def test_a_limit_on_cost_counts_every_answer() -> None:
    here = world([remote("m")])  # 2 dollars per million tokens of answer
    once = chat(max_cost=0.0025, output_tokens=1000)
    assert codes(choose(once, here)) == {}
    assert codes(choose(replace(once, choices=2), here)) == {"m": "cost"}


def test_max_cost_counts_a_prompt_with_the_error_of_its_estimate() -> None:
    here = world([remote("m", context=None)])  # 1 dollar per million tokens of prompt
    prompt = chat(max_cost=0.011516, prompt_tokens=10_000, output_tokens=0)
    assert codes(choose(prompt, here)) == {}
    assert codes(choose(replace(prompt, prompt_tokens=10_001), here)) == {"m": "cost"}


def test_max_cost_excludes_a_model_whose_answer_cannot_be_bounded_unless_it_is_free() -> None:
    takes = frozenset({"temperature"})
    rows = [remote("endless", parameters=takes), local("free", parameters=takes)]
    rows += [remote(name, parameters=takes | {name}) for name in ("max_tokens", "max_completion_tokens")]
    here = world(rows)
    for facts in (chat(max_cost=1.0), chat(max_cost=1.0, output_tokens=10)):
        made = choose(facts, here)
        assert codes(made) == {"endless": "cost"}
        assert "does not take max_tokens" in made.excluded[0].reason
    assert codes(choose(chat(), here)) == {}


def test_a_model_that_no_device_can_hold_is_excluded_also_when_pinned_to_a_small_one() -> None:
    gib = 2**30
    devices = (
        DeviceView(id="cpu", name="cpu", total=8 * gib, budget=4 * gib, used=0),
        DeviceView(id="cuda:0", name="gpu", total=2 * gib, budget=1 * gib, used=0),
    )
    rows = [
        local("small", size=Size(memory=gib // 2)),
        local("large", size=Size(memory=6 * gib)),
        local("misplaced", size=Size(memory=2 * gib), device="cuda:0"),
        local("homeless", size=Size(memory=1), device="mps"),
    ]
    made = choose(chat(), world(rows, pool=PoolSnapshot(devices=devices)))
    assert [c.model.id for c in made.candidates] == ["small"]
    assert set(codes(made).items()) == {("large", "memory"), ("misplaced", "memory"), ("homeless", "memory")}


def test_a_blocked_model_is_excluded_with_the_code_of_its_block() -> None:
    here = world(
        [remote("a"), remote("b")], blocked={"a": Block("breaker_open", "it fails"), "gone": Block("x", "y")}
    )
    assert codes(choose(chat(), here)) == {"a": "breaker_open"}


def test_reasons_are_built_on_first_access() -> None:
    class Loud(Block):
        @property
        def reason(self) -> str:
            raise AssertionError("the reason was made although nobody asked")

    loud = object.__new__(Loud)
    object.__setattr__(loud, "code", "blocked")
    made = choose(chat(), world([remote("a"), remote("b")], blocked={"a": loud}))
    assert len(made.excluded) == 1
    with pytest.raises(AssertionError):
        list(made.excluded)


# ---- cache


@pytest.mark.parametrize(
    "facts",
    [
        chat(),
        chat(prompt_tokens=3_800),
        chat(prompt_tokens=3_800, output_tokens=1),
        chat(prompt_tokens=20_000),
        chat(prompt_tokens=3_900, tokens_only=True),
        chat(features=frozenset({Capability.TOOLS})),
        chat(require=frozenset({Capability.TOOLS})),
        chat(allowed=("small*",)),
        chat(local_only=True),
        chat(mode=Mode.LOCAL),
        chat(tags=frozenset({"eu"})),
        chat(exclude=frozenset({"large"})),
        chat(max_cost=1e-3),
        chat(capability=Capability.EMBED),
        chat(capability=Capability.SPEAK),
    ],
)
def test_cached_rows_equal_those_that_the_rules_admit(facts: Facts) -> None:
    rows = [
        remote("small", context=4096),
        remote("large", context=16_384, tags=frozenset({"eu"})),
        remote("tools", capabilities=frozenset({Capability.CHAT, Capability.TOOLS}), price=Price()),
        local("mine", size=Size(memory=2 * 2**30)),
        remote("voice", capabilities=frozenset({Capability.SPEAK})),
        remote("vectors", capabilities=frozenset({Capability.EMBED})),
    ]
    plain = world(rows)
    device = DeviceView(id="cpu", name="cpu", total=2**30, budget=2**30, used=0)
    worlds = [
        plain,
        replace(plain, blocked={"large": Block("no_key", "none")}),
        replace(plain, blocked={"small": Block("no_key", "none"), "mine": Block("not_pulled", "no")}),
        replace(plain, pool=PoolSnapshot(devices=(device,))),
    ]
    speech_stays = SETTINGS.model_copy(update={"speech": SpeechPolicy(allow_remote=False)})
    bound = None if facts.intent.max_cost is None else plain.estimator.cost(facts)
    for settings in (SETTINGS, speech_stays):
        for _ in range(2):
            for there in worlds:
                left = np.flatnonzero(admit(facts, there, settings, bound).admitted)
                assert admitted_rows(facts, there, settings, bound).tolist() == left.tolist()


def test_nothing_is_cached_by_caller_supplied_names() -> None:
    here = world([remote("a"), remote("b")])
    for number in range(50):
        names = frozenset({f"{number}" * 1000})
        with pytest.raises(InvalidRequest):
            plan(chat(exclude=names), here, SETTINGS, rng())
        plan(chat(exclude=frozenset({f"acme/{'aA'[number % 2]}"})), here, SETTINGS, rng())
        plan(chat(tags=names), here, SETTINGS, rng())
    assert here.index.admitted(here.blocked) == {}
    plan(chat(), here, SETTINGS, rng())
    assert len(here.index.admitted(here.blocked)) == 1


def test_the_bound_on_cost_follows_long_prompts_tiers_and_pictures() -> None:
    long = LongPrices(above=1_000_000, input=4, output=6)
    priced = Price(input=1, output=2, long=long, tiers={"priority": 3})
    here = world([remote("m", price=priced, context=None), remote("plain", context=None)])

    def bounds(**changes: Any) -> list[float]:
        facts = chat(max_cost=9.0, output_tokens=0, **changes)
        return [float(each) for each in here.estimator.cost(facts, output=0.0)]

    assert bounds(prompt_tokens=1_000_000) == [1.0, 1.0]
    assert bounds(prompt_tokens=2_000_000) == [8.0, 2.0]
    assert bounds(prompt_tokens=1_000_000, tiers=("priority",)) == [3.0, 1.0]
    drawing = world([remote("m", price=Price(image_output=30)), remote("each", price=Price(image=0.04))])
    facts = chat(capability=Capability.IMAGE, units=2, prompt_tokens=0)
    assert [float(cost) for cost in drawing.estimator.cost(facts)] == pytest.approx([2 * 6_240 * 30e-6, 0.08])


@pytest.mark.parametrize(
    ("model", "asked", "tokens"),
    [
        ("gemini-nano-banana-2.1", {}, 1_120),
        ("gemini-nano-banana-2.1", {"size": "auto", "quality": "high"}, 1_120),
        ("gemini-nano-banana-2.1", {"size": "1536x1024"}, 1_120),
        ("gemini-nano-banana-2.1", {"size": "2048x2048"}, 1_680),
        ("gemini-nano-banana-2.1", {"size": "4096x4096"}, 3_780),
        ("gemini-3-pro-image", {"size": "4096x4096"}, 2_000),
        ("gpt-image-1-mini", {"size": "1024x1024", "quality": "low"}, 408),
        ("gpt-image-1-mini", {"size": "1024x1024", "quality": "auto"}, 6_240),
        ("gpt-image-2", {"quality": "low"}, 6_240),
    ],
)
def test_a_picture_costs_the_tokens_that_its_model_has_for_its_size_or_quality(
    model: str, asked: dict[str, str], tokens: int
) -> None:
    row = Catalog.builtin().resolve(model)
    here = world([row])
    facts = read_image(ImageRequest(model="auto", prompt="a house", n=2, **asked))  # type: ignore[arg-type]
    words = facts.prompt_tokens * float(row.price.input or 0)
    dollars = (2 * tokens * float(row.price.image_output or 0) + words) * 1e-6
    assert float(here.estimator.cost(facts)[0]) == pytest.approx(dollars)
    assert choose(replace(facts, intent=Intent(max_cost=dollars * 1.01)), here).candidates
    assert not choose(replace(facts, intent=Intent(max_cost=dollars * 0.99)), here).candidates


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ({}, ["plain"]),
        ({"parameters": frozenset({"audio", "modalities"})}, ["plain", "voice"]),
        ({"features": frozenset({Capability.AUDIO_INPUT})}, ["voice"]),
    ],
)
def test_a_model_that_takes_only_chats_with_sound_is_given_no_other(asked: Any, chosen: list[str]) -> None:
    hears = frozenset({Capability.CHAT, Capability.AUDIO_INPUT})
    here = world([remote("plain"), remote("voice", tags=frozenset({"spoken"}), capabilities=hears)])
    assert len(choose(chat(), here).candidates) == 1  # what follows is no answer of a cache
    assert sorted(candidate.model.id for candidate in choose(chat(**asked), here).candidates) == chosen
    assert [c.model.id for c in choose(chat(requested="voice"), here).candidates] == ["voice"]
