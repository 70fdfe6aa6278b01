"""Dispatch: the answer, its headers, and who is told of each outcome and when."""

from __future__ import annotations

from dataclasses import replace

import pytest

from catalog.errors import (
    BudgetExceeded,
    CapabilityMismatch,
    ContextLengthExceeded,
    EngineMissing,
    ModelTemporarilyUnavailable,
    ModelUnavailable,
    NoCandidate,
    RoundhouseError,
    UnsupportedParameter,
    UpstreamForbidden,
    UpstreamQuotaExceeded,
    UpstreamRateLimited,
    UpstreamRejectedKey,
    WorkerFailed,
)
from catalog.model import Capability, UpstreamSource
from routing.calling.dispatcher import nothing_left
from routing.calling.traces import TraceSettings
from routing.facts import Facts, Intent
from routing.outcomes import Result
from routing.plan import Exclusion, Plan, Strategy
from tests.garbage import left_in_cycles
from tests.routing.calling.scripted import FACTS, GOOD, REQUEST, ROLE, USAGE, Stand, local, remote


async def test_the_first_candidate_answers_and_is_reported(stand: Stand) -> None:
    stand.backend.scripts = {"a": GOOD}
    stand.will_try(local("a"), local("b"))
    async with stand.dispatcher.open(stand.job()) as answer:
        assert answer.headers() == {
            "x-roundhouse-model": "a",
            "x-roundhouse-trace": "trace-1",
            "x-roundhouse-reason": "because",
            "x-roundhouse-attempts": "1",
        }
        items = [item async for item in answer]
    assert [item["model"] for item in items] == ["a"] * 4
    outcome = stand.recorder.outcomes[0]
    assert (outcome.result, outcome.finish_reason, outcome.attempt) == (Result.SUCCESS, "stop", 1)
    assert (outcome.usage.input, outcome.usage.output, outcome.cost) == (100_000, 950_000, 0)


async def test_only_a_successful_call_makes_a_pin(stand: Stand) -> None:
    stand.backend.scripts = {"a": (WorkerFailed("It died."),), "b": GOOD}
    for model in ("a", "b"):
        stand.will_try(local(model))
        stand.plans[0] = replace(stand.plans[0], pin="auto")
        if model == "a":
            with pytest.raises(WorkerFailed):
                await stand.ask()
            assert not stand.pins.current
    await stand.ask()
    assert stand.pins.current == {"auto": "b"}


async def test_an_answer_beside_a_pin_that_another_call_just_made_is_replaced_by_one_of_the_pinned_model(
    stand: Stand,
) -> None:
    stand.backend.scripts = {"a": GOOD, "b": GOOD}
    stand.will_try(local("b"))
    pinned = stand.plans[0]
    stand.will_try(local("a"))
    stand.plans[:] = [replace(stand.plans[0], pin="auto"), pinned]
    stand.pins.pin("auto", "b")
    assert (await stand.ask())[0] == "b"


async def test_a_remote_answer_is_paid_at_its_price_and_carries_a_key(stand: Stand) -> None:
    stand.backend.scripts = {"big": GOOD}
    stand.will_try(remote("big"))
    await stand.ask()
    assert stand.recorder.outcomes[0].cost == pytest.approx(2.0)
    assert stand.backend.calls[0].api_key == "one"
    assert stand.recorder.outcomes[0].provider_key == 0


async def test_dropped_parameters_are_told_and_strict_refuses_them(stand: Stand) -> None:
    stand.backend.scripts = {"a": GOOD}
    stand.backend.drops = ("top_k",)
    stand.will_try(local("a"))
    async with stand.dispatcher.open(stand.job()) as answer:
        assert answer.headers()["x-roundhouse-dropped"] == "top_k"
    strict = Facts(capability=Capability.CHAT, intent=Intent(strict=True))
    with pytest.raises(UnsupportedParameter, match="top_k"):
        await stand.ask(stand.job(strict))


async def test_a_parameter_that_each_model_refuses_is_told_with_what_each_lacks(stand: Stand) -> None:
    refused = {name: UnsupportedParameter(f"'{name}' does not speak 'ru'.", param="language") for name in "abc"}
    refused["b"].param = "voice"
    stand.backend.scripts = {name: (error,) for name, error in refused.items()}
    stand.will_try(local("a"), local("b"), local("c"))
    with pytest.raises(UnsupportedParameter) as raised:
        await stand.ask()
    assert raised.value.message == "'a' does not speak 'ru'. 'c' does not speak 'ru'."


async def test_dropped_bookkeeping_is_told_and_strict_lets_it_pass(stand: Stand) -> None:
    stand.backend.scripts = {"a": GOOD}
    stand.backend.drops = ("user", "metadata")
    stand.will_try(local("a"))
    strict = Facts(capability=Capability.CHAT, intent=Intent(strict=True))
    async with stand.dispatcher.open(stand.job(strict)) as answer:
        assert answer.headers()["x-roundhouse-dropped"] == "user, metadata"


async def test_what_a_worker_says_it_dropped_is_told_too_and_strict_refuses_it(stand: Stand) -> None:
    stand.backend.scripts = {"a": GOOD}
    stand.backend.drops, stand.backend.reports = ("top_k",), "input_type, top_k"
    stand.will_try(local("a"))
    async with stand.dispatcher.open(stand.job()) as answer:
        assert answer.headers()["x-roundhouse-dropped"] == "top_k, input_type"
    stand.backend.drops = ()
    with pytest.raises(UnsupportedParameter, match="input_type"):
        await stand.ask(stand.job(Facts(capability=Capability.CHAT, intent=Intent(strict=True))))
    assert stand.backend.open == 0


async def test_fewer_choices_than_were_asked_for_are_told_and_strict_goes_on_to_a_model_that_gives_them(
    stand: Stand,
) -> None:
    two = [{"index": 1, "delta": {"content": "too"}, "finish_reason": "stop"}]
    stand.backend.scripts = {"one": GOOD, "two": (*GOOD[:-1], {"choices": two}, USAGE)}
    request = REQUEST.model_copy(update={"n": 2})
    for name, told in (("one", "n"), ("two", None)):
        stand.will_try(local(name))
        async with stand.dispatcher.open(replace(stand.job(), request=request)) as answer:
            async for _ in answer:
                pass
            assert answer.headers().get("x-roundhouse-dropped") == told
    strict = Facts(capability=Capability.CHAT, intent=Intent(strict=True))
    stand.will_try(local("one"))
    with pytest.raises(UnsupportedParameter, match="n"):
        async with stand.dispatcher.open(replace(stand.job(strict), request=request)) as answer:
            async for _ in answer:
                pass


async def test_a_form_of_the_answer_is_never_dropped(stand: Stand) -> None:
    stand.backend.scripts = {"a": GOOD}
    stand.backend.drops = ("structured_outputs",)
    stand.will_try(local("a"))
    with pytest.raises(UnsupportedParameter, match="structured_outputs"):
        await stand.ask()


async def test_no_candidate_says_why(stand: Stand) -> None:
    stand.will_try()
    with pytest.raises(NoCandidate, match="is not pulled"):
        await stand.ask()
    stand.will_try(strategy=Strategy.EXPLICIT)
    with pytest.raises(ModelUnavailable, match="is not pulled"):
        await stand.ask()


def excluding(*exclusions: tuple[str, str, str], strategy: Strategy = Strategy.SCHEMA) -> Plan:
    return Plan((), [Exclusion(*each) for each in exclusions], strategy, "")


CHAT = Facts(capability=Capability.CHAT)
NO_KEY = ("far", "no_key", "no key is set")
REFUSED = ("far", "keys_rejected", "refused every key")
FORBIDDEN = ("far", "keys_forbidden", "does not let any key use it")
RESTS = ("far", "keys_resting", "its keys rest")
USED_UP = ("far", "keys_used_up", "its account is used up")
BREAKS = ("near", "breaker_open", "failed repeatedly")


@pytest.mark.parametrize(
    ("plan", "status", "kind"),
    [
        (excluding(NO_KEY), 400, NoCandidate),
        (excluding(NO_KEY, strategy=Strategy.EXPLICIT), 404, ModelUnavailable),
        (excluding(("m", "engine_missing", "pip it"), strategy=Strategy.EXPLICIT), 404, EngineMissing),
        (excluding(("m", "privacy", "it is remote"), strategy=Strategy.EXPLICIT), 400, NoCandidate),
        (excluding(("m", "breaker_cannot", "no tools"), strategy=Strategy.EXPLICIT), 400, CapabilityMismatch),
        (excluding(BREAKS, strategy=Strategy.EXPLICIT), 503, ModelTemporarilyUnavailable),
        (excluding(REFUSED, strategy=Strategy.EXPLICIT), 502, UpstreamRejectedKey),
        (excluding(FORBIDDEN, strategy=Strategy.EXPLICIT), 403, UpstreamForbidden),
        (excluding(NO_KEY, REFUSED, FORBIDDEN), 502, UpstreamRejectedKey),
        (excluding(REFUSED, BREAKS), 503, ModelTemporarilyUnavailable),
        (excluding(FORBIDDEN, RESTS), 503, ModelTemporarilyUnavailable),
        (excluding(NO_KEY, BREAKS), 503, ModelTemporarilyUnavailable),
        (excluding(RESTS, strategy=Strategy.EXPLICIT), 429, UpstreamRateLimited),
        (excluding(NO_KEY, RESTS, USED_UP), 429, UpstreamRateLimited),
        (excluding(NO_KEY, USED_UP), 429, UpstreamQuotaExceeded),
        (excluding(RESTS, BREAKS), 503, ModelTemporarilyUnavailable),
        (excluding(NO_KEY, ("m", "budget", "too dear")), 429, BudgetExceeded),
        (excluding(NO_KEY, ("m", "context", "holds 9, needs 10")), 400, ContextLengthExceeded),
        (excluding(), 400, NoCandidate),
    ],
)
def test_only_what_may_pass_is_worth_trying_again(plan: Plan, status: int, kind: type[RoundhouseError]) -> None:
    error = nothing_left(plan, CHAT)
    assert (type(error), error.status) == (kind, status)
    assert (status in (429, 503) and kind is not BudgetExceeded) == (error.retry_after is not None)


@pytest.mark.parametrize("strategy", [Strategy.EXPLICIT, Strategy.SCHEMA])
def test_a_model_that_rests_is_named_with_the_time_to_try_again(strategy: Strategy) -> None:
    plan = Plan((), [Exclusion(*BREAKS, rest=11.5)], strategy, "")
    error = nothing_left(plan, CHAT)
    assert "near" in error.message
    assert "failed repeatedly" in error.message
    assert error.message.endswith(" Try again in 12 s, or choose another model.")
    assert error.retry_after == 12


def test_reasons_that_can_be_mended_come_first_and_one_that_many_share_is_told_once() -> None:
    unfit = [(f"embedder-{n}", "capability", "it cannot do: chat") for n in range(30)]
    message = nothing_left(excluding(*unfit, NO_KEY), CHAT).message
    assert "far: no key is set; embedder-0, embedder-1, embedder-2 and 27 more: it cannot do: chat" in message


def test_models_that_the_callers_key_may_not_use_are_not_named() -> None:
    plan = excluding(NO_KEY, ("secret", "capability", "it cannot do: chat"))
    assert "secret" not in nothing_left(plan, replace(CHAT, allowed=("f*",))).message


async def test_who_learns_is_told_of_an_answer_after_it_left_and_of_a_failure_at_once(stand: Stand) -> None:
    stand.backend.scripts = {"a": GOOD, "b": (WorkerFailed("gone"),)}
    stand.will_try(local("a"))
    await stand.ask()
    assert len(stand.recorder.outcomes) == 1
    assert stand.learning.outcomes == []
    stand.will_try(local("b"), local("a"))
    async with stand.dispatcher.open(stand.job()) as answer:
        assert answer.model.id == "a"
        assert stand.learning.outcomes == stand.recorder.outcomes
        assert [outcome.result for outcome in stand.learning.outcomes] == [Result.SUCCESS, Result.FAILED]


@pytest.mark.parametrize("ask", ["settle", "explain"])
async def test_who_explains_or_settles_has_everybody_told_first(stand: Stand, ask: str) -> None:
    stand.backend.scripts = {"a": GOOD}
    stand.will_try(local("a"))
    await stand.ask()
    if ask == "settle":
        await stand.dispatcher.settle()
    else:
        stand.dispatcher.explain(FACTS)
    assert stand.learning.outcomes == stand.recorder.outcomes
    await stand.dispatcher.settle()
    assert len(stand.learning.outcomes) == 1


async def test_a_row_that_changed_is_called_at_its_new_address(stand: Stand) -> None:
    stand.backend.scripts = {"big": GOOD, "bigger": GOOD}
    for name in ("big", "big", "bigger"):
        source = UpstreamSource(endpoint="lan", model=name)
        stand.will_try(remote("big", "lan").model_copy(update={"source": source}))
        await stand.ask()
    assert [call.model for call in stand.backend.calls] == ["big", "big", "bigger"]


async def test_each_key_has_an_address_of_its_own(stand: Stand) -> None:
    stand.backend.scripts = {"big": GOOD}
    stand.will_try(remote("big"))
    for _ in range(4):
        await stand.ask()
    assert [call.api_key for call in stand.backend.calls] == ["one", "two", "one", "two"]


async def test_neither_an_answer_nor_a_refusal_leaves_anything_to_the_garbage_collector(stand: Stand) -> None:
    async def fails() -> None:
        with pytest.raises(WorkerFailed):
            await stand.ask()

    with left_in_cycles() as left:
        stand.will_try(local("a"), local("b"))
        stand.backend.scripts = {"a": GOOD}
        await stand.ask()
        stand.backend.scripts = {"a": (ROLE, WorkerFailed("gone")), "b": (WorkerFailed("gone as well"),)}
        await fails()
        stand.backend.scripts = {}
    assert left == [], left


@pytest.mark.parametrize(
    "stand", [TraceSettings(store_prompts=False), TraceSettings(store_prompts=True)], indirect=True
)
async def test_a_trace_has_the_request_as_sent_only_where_the_setting_keeps_prompts(
    stand: Stand, request: pytest.FixtureRequest
) -> None:
    stand.backend.scripts = {"a": GOOD}
    stand.will_try(local("a"))
    await stand.ask()
    trace = stand.traces.get("trace-1")
    assert trace is not None
    kept = request.node.callspec.params["stand"].store_prompts
    assert trace.get("prompt") == (REQUEST.to_wire() if kept else None)


@pytest.mark.parametrize(
    ("requested", "sent"),
    [
        ("cloud/gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("gpt-4o", "gpt-4o"),
        ("auto", "gpt-4o"),
        ("an-alias-of-it", "gpt-4o"),
    ],
)
async def test_a_dated_name_is_sent_as_the_caller_wrote_it(stand: Stand, requested: str, sent: str) -> None:
    stand.backend.scripts = {"gpt-4o": GOOD, "gpt-4o-2024-05-13": GOOD}
    stand.will_try(remote("gpt-4o"))
    await stand.ask(stand.job(replace(FACTS, requested=requested)))
    assert stand.backend.calls[0].model == sent


ENGLISH_ONLY = ("ears", "language", "it does not know the language xx")
CHATS = ("near", "capability", "it cannot do: transcribe")


@pytest.mark.parametrize(
    ("plan", "languages", "param"),
    [
        (excluding(CHATS, ENGLISH_ONLY), ("xx",), "language"),
        (excluding(CHATS, ENGLISH_ONLY, ("big", "not_pulled", "it is not pulled")), ("xx",), "language"),
        (excluding(ENGLISH_ONLY), ("xx", "yy"), "languages"),
        (excluding(ENGLISH_ONLY, ("far", "privacy", "it is remote")), ("xx",), "model"),
    ],
)
def test_where_the_language_alone_excludes_every_model_its_field_is_named(
    plan: Plan, languages: tuple[str, ...], param: str
) -> None:
    facts = Facts(capability=Capability.TRANSCRIBE, languages=frozenset(languages))
    error = nothing_left(plan, facts)
    assert (error.status, error.param) == (400, param)
