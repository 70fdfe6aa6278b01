"""Another candidate answers when one fails before its first token; never after it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backends.http import HttpClient
from backends.openai.backend import OpenAIBackend
from catalog.errors import (
    CapabilityMismatch,
    ContextLengthExceeded,
    InvalidRequest,
    ModelTemporarilyUnavailable,
    PathMissing,
    RoundhouseError,
    StreamBroken,
    UnsupportedParameter,
    UpstreamError,
    UpstreamForbidden,
    UpstreamProtocolError,
    UpstreamQuotaExceeded,
    UpstreamRateLimited,
    UpstreamRejectedKey,
    UpstreamUnreachable,
    WorkerFailed,
)
from catalog.model import Capability, Limits
from catalog.types import Json
from routing.calling.operations import CHAT
from routing.facts import Facts
from routing.outcomes import Result
from routing.plan import Exclusion, Plan, Strategy
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from tests.routing.calling.scripted import FACTS, GOOD, ROLE, Stand, end, local, remote, text


async def test_the_reason_tells_what_failed_before(stand: Stand) -> None:
    stand.backend.scripts = {"a": (ROLE, WorkerFailed("gone")), "b": GOOD}
    stand.will_try(local("a"), local("b"))
    async with stand.dispatcher.open(stand.job()) as answer:
        assert answer.headers()["x-roundhouse-reason"] == "b after a: worker_failed; the first choice was because"
        assert [item async for item in answer]


async def test_failure_before_the_first_token_falls_back_unseen(stand: Stand) -> None:
    stand.backend.scripts = {"a": (ROLE, WorkerFailed("gone")), "b": GOOD}
    stand.will_try(local("a"), local("b"))
    async with stand.dispatcher.open(stand.job()) as answer:
        assert answer.model.id == "b"
        assert answer.attempts == 2
        items = [item async for item in answer]
    assert items[1]["choices"][0]["delta"]["content"] == "fine"
    assert len(items) == len(GOOD)
    assert stand.results == [("a", Result.FAILED), ("b", Result.SUCCESS)]
    assert [outcome.attempt for outcome in stand.recorder.outcomes] == [1, 2]


async def test_a_worker_that_just_died_is_leased_again_once(stand: Stand) -> None:
    stand.backend.scripts = {"a": (UpstreamUnreachable("refused"),)}
    stand.will_try(local("a"))
    with pytest.raises(UpstreamUnreachable):
        await stand.ask()
    assert stand.results == [("a", Result.FAILED)] * 2


async def test_failure_after_the_first_token_never_gets_a_second_answer(stand: Stand) -> None:
    stand.backend.scripts = {"a": (ROLE, text("half"), StreamBroken("cut")), "b": GOOD}
    stand.will_try(local("a"), local("b"))
    got: list[Json] = []
    with pytest.raises(StreamBroken):
        async with stand.dispatcher.open(stand.job()) as answer:
            async for item in answer:
                got.append(item)  # noqa: PERF401
    assert len(got) == 2
    assert stand.results == [("a", Result.FAILED)]
    assert stand.recorder.outcomes[0].error == "stream_broken"


def lacking(error: InvalidRequest, *names: str) -> InvalidRequest:
    error.lacks = frozenset(names)
    return error


@pytest.mark.parametrize("kind", [CapabilityMismatch, UnsupportedParameter])
async def test_a_model_that_lacks_something_is_passed_over_and_that_need_is_remembered(
    stand: Stand, kind: type[InvalidRequest]
) -> None:
    facts = replace(FACTS, features=frozenset({Capability.TOOLS, Capability.VISION}))
    stand.backend.scripts = {"a": (lacking(kind("no tools"), "tools"),), "b": GOOD}
    stand.will_try(remote("a"), remote("b"))
    for _ in range(2):
        model, _ = await stand.ask(stand.job(facts))
        assert model == "cloud/b"
    assert [outcome.result for outcome in stand.recorder.outcomes[::2]] == [Result.CANNOT] * 2
    now = stand.clock.monotonic()
    blocked = stand.breakers.blocked(facts, now)
    assert blocked["cloud/a", "cloud"].code == "breaker_cannot"
    assert not stand.breakers.blocked(replace(FACTS, features=frozenset({Capability.VISION})), now)


@pytest.mark.parametrize("error", [CapabilityMismatch("no BMP"), InvalidRequest("bad"), UnsupportedParameter("x")])
async def test_a_refusal_of_our_own_or_for_the_requests_fault_closes_no_model(
    stand: Stand, error: InvalidRequest
) -> None:
    stand.backend.scripts = {"a": (error,)}
    stand.will_try(remote("a"))
    for _ in range(10):
        with pytest.raises(type(error)):
            await stand.ask()
    assert {outcome.result for outcome in stand.recorder.outcomes} == {Result.REJECTED}
    assert not stand.breakers.blocked(FACTS, stand.clock.monotonic())


async def test_a_refused_value_is_answered_by_the_next_model_and_closes_none(stand: Stand) -> None:
    stand.backend.scripts = {"a": (UnsupportedParameter("does not support 0.5"),), "b": GOOD}
    stand.will_try(remote("a"), remote("b"))
    for _ in range(4):
        assert (await stand.ask())[0] == "cloud/b"
    assert not stand.breakers.blocked(FACTS, stand.clock.monotonic())


async def test_a_missing_path_is_a_fault_for_a_chat_and_a_lack_for_another_kind(stand: Stand) -> None:
    absent = PathMissing("The endpoint says (HTTP 404): the tenant is asleep.")
    absent.lacks, absent.upstream_status = frozenset(), 404
    stand.backend.scripts = {"a": (absent,), "b": GOOD}
    stand.will_try(remote("a"))
    for _ in range(2):
        with pytest.raises(UpstreamError, match="HTTP 404") as raised:
            await stand.ask()
        assert raised.value.retryable
        assert "the tenant is asleep. Its path" in raised.value.message
        assert "check its base_url" in raised.value.message
    assert [(one.result, one.error) for one in stand.recorder.outcomes] == [(Result.FAILED, "upstream_error")] * 2
    assert not stand.breakers.blocked(FACTS, stand.clock.monotonic())
    other = replace(FACTS, capability=Capability.RERANK)
    stand.will_try(remote("a"), remote("b"))
    for _ in range(2):
        assert (await stand.ask(stand.job(other)))[0] == "cloud/b"
    blocked = stand.breakers.blocked(other, stand.clock.monotonic())
    assert blocked["cloud/a", "cloud"].code == "breaker_cannot"
    assert not stand.breakers.blocked(FACTS, stand.clock.monotonic())


async def test_the_same_refused_request_stays_a_400_for_a_named_model(stand: Stand) -> None:
    stand.backend.scripts = {"a": (lacking(CapabilityMismatch("no tools"), "tools"),)}
    stand.will_try(remote("a"), strategy=Strategy.EXPLICIT)
    facts = replace(FACTS, features=frozenset({Capability.TOOLS}))
    for _ in range(5):
        with pytest.raises(CapabilityMismatch, match="no tools"):
            await stand.ask(stand.job(facts))
    assert len(stand.backend.calls) == 5


async def test_a_plan_that_is_empty_for_what_all_models_lack_is_a_400_that_says_so(stand: Stand) -> None:
    lack = Exclusion("a", "breaker_cannot", "answered that it cannot do: tools")
    for strategy in (Strategy.PROFILE, Strategy.EXPLICIT):
        stand.plans[:] = [Plan((), (Exclusion("b", "capability", "is deaf"), lack), strategy, "why")]
        with pytest.raises(CapabilityMismatch, match="a: answered that it cannot do: tools"):
            await stand.ask()
    stand.plans[:] = [Plan((), (lack, Exclusion("b", "breaker_open", "failed")), Strategy.PROFILE, "why")]
    with pytest.raises(ModelTemporarilyUnavailable):
        await stand.ask()


async def test_an_answer_of_a_wrong_shape_falls_back_before_the_first_token_and_never_after(stand: Stand) -> None:
    wrong = UpstreamProtocolError("choices")
    stand.backend.scripts = {"a": (ROLE, wrong), "b": GOOD}
    stand.will_try(remote("a"), remote("b"))
    model, _ = await stand.ask()
    assert model == "cloud/b"
    stand.backend.scripts = {"a": (ROLE, text("half"), wrong), "b": GOOD}
    with pytest.raises(UpstreamProtocolError):
        await stand.ask()


async def test_when_everyone_fails_the_last_error_is_raised_and_each_attempt_has_an_outcome(stand: Stand) -> None:
    stand.backend.scripts = {"a": (StreamBroken("a"),), "b": (WorkerFailed("b"),)}
    stand.will_try(local("a"), local("b"))
    with pytest.raises(WorkerFailed):
        await stand.ask()
    assert stand.results == [("a", Result.FAILED), ("b", Result.FAILED)]
    trace = stand.traces.get("trace-1")
    assert trace is not None
    assert trace["status"] == "failed"
    assert len(trace["attempts"]) == 2


async def test_the_callers_mistake_is_not_retried(stand: Stand) -> None:
    stand.backend.scripts = {"a": (InvalidRequest("no"),), "b": GOOD}
    stand.will_try(local("a"), local("b"))
    with pytest.raises(InvalidRequest):
        await stand.ask()
    assert stand.results == [("a", Result.REJECTED)]


@pytest.mark.parametrize(
    "error",
    [ContextLengthExceeded(model="a", limit=1, requested=2), CapabilityMismatch("cannot")],
    ids=["long", "cannot"],
)
async def test_what_one_model_cannot_do_another_is_asked_for(stand: Stand, error: RoundhouseError) -> None:
    stand.backend.scripts = {"a": (error,), "b": GOOD}
    stand.will_try(local("a"), local("b"))
    model, _ = await stand.ask()
    assert model == "b"


async def test_a_refusal_is_an_answer(stand: Stand) -> None:
    stand.backend.scripts = {"a": (ROLE, text("I cannot help with that"), end("content_filter")), "b": GOOD}
    stand.will_try(local("a"), local("b"))
    model, _ = await stand.ask()
    assert model == "a"
    assert stand.results == [("a", Result.REFUSAL)]


@pytest.mark.parametrize("error", [UpstreamRateLimited("slow"), UpstreamRejectedKey("bad")], ids=["429", "401"])
async def test_another_key_is_tried_before_another_model(stand: Stand, error: RoundhouseError) -> None:
    stand.backend.scripts = {"big": (error,), "b": GOOD}
    stand.will_try(remote("big"), local("b"))
    model, _ = await stand.ask()
    assert model == "b"
    assert [call.api_key for call in stand.backend.calls] == ["one", "two", None]


async def test_a_403_of_the_request_is_asked_of_no_other_key_and_falls_back(stand: Stand) -> None:
    stand.backend.scripts = {"big": (UpstreamForbidden("this file"),), "b": GOOD}
    stand.will_try(remote("big"), local("b"))
    for _ in range(3):
        assert (await stand.ask())[0] == "b"
    assert [call.api_key for call in stand.backend.calls] == ["one", None, "two", None, "one", None]


async def test_a_403_of_the_model_is_asked_of_the_other_key(stand: Stand) -> None:
    refused = UpstreamForbidden("this model")
    refused.scope = "model"
    stand.backend.scripts = {"big": (refused,), "b": GOOD}
    stand.will_try(remote("big"), local("b"))
    assert (await stand.ask())[0] == "b"
    assert [call.api_key for call in stand.backend.calls] == ["one", "two", None]


async def test_the_caller_of_limited_candidates_is_told_the_shortest_of_their_delays(stand: Stand) -> None:
    stand.backend.scripts = {
        "big": (UpstreamRateLimited("slow", retry_after=20),),
        "far": (UpstreamRateLimited("slow", retry_after=45),),
    }
    stand.will_try(remote("big"), remote("far", "lan"))
    with pytest.raises(UpstreamRateLimited) as raised:
        await stand.ask()
    assert raised.value.headers()["Retry-After"] == "20"


async def test_a_keyless_endpoint_that_limits_is_called_once(stand: Stand) -> None:
    stand.backend.scripts = {"big": (UpstreamRateLimited("slow"),)}
    stand.will_try(remote("big", "lan"))
    with pytest.raises(UpstreamRateLimited):
        await stand.ask()
    assert len(stand.backend.calls) == 1


async def test_an_account_that_is_used_up_falls_back_and_is_not_asked_again(stand: Stand) -> None:
    used_up = UpstreamQuotaExceeded("used up", upstream_status=429)
    stand.backend.scripts = {"big": (used_up,), "b": GOOD}
    stand.will_try(remote("big"), local("b"))
    assert (await stand.ask())[0] == "b"
    assert [call.api_key for call in stand.backend.calls] == ["one", "two", None]
    stand.will_try(remote("big"))
    with pytest.raises(RoundhouseError):
        await stand.ask()
    assert len(stand.backend.calls) == 3


async def test_an_answer_that_ends_before_it_began_is_broken(stand: Stand) -> None:
    stand.backend.scripts = {"a": (ROLE,), "b": GOOD}
    stand.will_try(local("a"), local("b"))
    model, _ = await stand.ask()
    assert model == "b"


async def test_everything_down_costs_few_extra_calls(stand: Stand) -> None:
    """The retry budget: 1,000 requests, each with a fallback, all failing."""
    stand.backend.scripts = {"a": (UpstreamUnreachable("a"),), "b": (UpstreamUnreachable("b"),)}
    stand.will_try(remote("a", "lan"), remote("b", "lan"))
    for _ in range(1000):
        with pytest.raises(RoundhouseError):
            await stand.ask()
    assert len(stand.backend.calls) <= 1200


@pytest.mark.parametrize("others", [True, False], ids=["another candidate", "none"])
async def test_a_request_that_the_upstream_may_have_read_is_sent_once_and_is_one_failed_outcome(
    stand: Stand, others: bool
) -> None:
    """The upstream reads the request and closes its kept-alive connection; its second key is not tried."""
    async with FakeOpenAI() as first, FakeOpenAI() as second, HttpClient() as http:
        addresses = {"cloud": first.base_url, "lan": second.base_url}
        backend = OpenAIBackend(http)
        job = replace(
            stand.job(),
            operation=replace(
                CHAT,
                call=lambda _, upstream, body: backend.chat(
                    replace(upstream, base_url=addresses[upstream.endpoint], model="fake-chat"), body
                ),
            ),
        )
        stand.will_try(*[remote("a"), remote("b", "lan")][: 1 + others])
        first.script(Fault(), Fault(die_after=-1))
        assert (await stand.ask(job))[0] == "cloud/a"
        if others:
            assert (await stand.ask(job))[0] == "lan/b"
        else:
            with pytest.raises(UpstreamUnreachable, match="closed the connection before it answered") as raised:
                await stand.ask(job)
            assert (raised.value.status, raised.value.code) == (502, "upstream_unreachable")
        assert len(first.calls) == 2
        assert len({call.peer for call in first.calls}) == 1, "one connection, kept alive"
        assert len(second.calls) == others
    expected = [("cloud/a", Result.SUCCESS), ("cloud/a", Result.FAILED), ("lan/b", Result.SUCCESS)]
    assert stand.results == expected[: 2 + others]
    assert stand.recorder.outcomes[1].error == "upstream_unreachable"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            ContextLengthExceeded(model="a", limit=None, requested=None),
            "is 4096 tokens, but the request needs about 5000 ",
        ),
        (
            ContextLengthExceeded(model="a", limit=9000, requested=None),
            "is 9000 tokens, but the request needs more than that ",
        ),
        (
            ContextLengthExceeded(model="a", limit=None, requested=4000),
            "is exceeded: the request needs 4000 tokens ",
        ),
        (ContextLengthExceeded(model="a", limit=10, requested=30), "is 10 tokens, but the request needs 30 "),
    ],
)
async def test_a_context_error_says_only_numbers_that_belong_together(
    stand: Stand, error: ContextLengthExceeded, told: str
) -> None:
    stand.backend.scripts = {"a": (error,)}
    stand.will_try(remote("a").model_copy(update={"limits": Limits(context_window=4096)}))
    job = stand.job()
    with pytest.raises(ContextLengthExceeded) as raised:
        async with stand.dispatcher.open(replace(job, facts=replace(job.facts, prompt_tokens=5000))):
            pass
    assert told in raised.value.message
    assert told in str(raised.value)
    # An estimate that fits explains nothing.
    unknown = ContextLengthExceeded(model="a", limit=None, requested=None)
    unknown.complete(limit=4096, estimate=7)
    assert "is exceeded: the request needs more than that " in unknown.message


async def test_an_answer_that_breaks_unseen_is_given_by_the_next_candidate(stand: Stand) -> None:
    stand.backend.scripts = {"a": (ROLE, text("half"), StreamBroken("cut")), "b": GOOD}
    stand.will_try(remote("a"), remote("b"))
    async with stand.dispatcher.open(stand.job()) as answer:
        with pytest.raises(StreamBroken) as broken:
            [item async for item in answer]
        await answer.resume(broken.value)
        items = [item async for item in answer]
        headers = answer.headers()
    assert len(items) == len(GOOD)
    assert headers["x-roundhouse-model"] == "cloud/b"
    assert headers["x-roundhouse-attempts"] == "2"
    assert "cloud/b after cloud/a: stream_broken" in headers["x-roundhouse-reason"]
    assert stand.results == [("cloud/a", Result.FAILED), ("cloud/b", Result.SUCCESS)]
    assert [outcome.attempt for outcome in stand.recorder.outcomes] == [1, 2]


async def test_the_broken_attempt_is_booked_as_an_estimate(capped: Stand) -> None:
    capped.backend.scripts = {"a": (text("half"), StreamBroken("cut")), "b": GOOD}
    capped.will_try(remote("a"), remote("b"))
    facts = Facts(Capability.CHAT, prompt_tokens=1_000_000, output_tokens=500_000)
    async with capped.dispatcher.open(capped.job(facts)) as answer:
        with pytest.raises(StreamBroken) as broken:
            [item async for item in answer]
        await answer.resume(broken.value)
        assert [item async for item in answer]
    assert [outcome.cost for outcome in capped.recorder.outcomes] == [None, 2.0]
    seen = 2 + 16
    assert capped.spend.cap_usage("")[0].spent == pytest.approx(3.0 + seen * 2e-6, abs=1e-9)


@pytest.mark.parametrize("error", [StreamBroken("cut"), InvalidRequest("no")], ids=["no other", "not retryable"])
async def test_an_answer_that_nothing_can_mend_breaks_with_its_own_error(
    stand: Stand, error: RoundhouseError
) -> None:
    stand.backend.scripts = {"a": (text("half"), error), "b": GOOD}
    stand.will_try(*([remote("a")] if error.retryable else [remote("a"), remote("b")]))
    with pytest.raises(type(error)):
        async with stand.dispatcher.open(stand.job()) as answer:
            try:
                [item async for item in answer]
            except RoundhouseError as broken:
                await answer.resume(broken)
    assert stand.results[0][0] == "cloud/a"
    assert len(stand.results) == 1


async def test_what_passes_by_itself_is_told_rather_than_what_another_candidate_cannot(stand: Stand) -> None:
    for order in ("ab", "ba"):
        stand.backend.scripts = {"a": (UpstreamError("down"),), "b": (UnsupportedParameter("one choice"),)}
        stand.will_try(*map(remote, order))
        with pytest.raises(UpstreamError, match="down"):
            await stand.ask()


async def test_a_candidate_that_rests_is_told_rather_than_what_another_cannot(stand: Stand) -> None:
    stand.backend.scripts = {"a": (UpstreamError("down"),) * 20, "b": (UnsupportedParameter("one choice"),) * 20}
    for _ in range(20):  # the breaker of the first opens meanwhile
        stand.will_try(remote("a"), remote("b"))
        with pytest.raises((UpstreamError, ModelTemporarilyUnavailable)):
            await stand.ask()
