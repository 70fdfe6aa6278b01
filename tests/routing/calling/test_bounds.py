"""An answer is held to the limits on its cost: the upstream itself is told where to end it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from backends.base import Upstream
from backends.wire.chat import ChatRequest, Original, TranslatedChat
from backends.wire.common import WireModel
from backends.wire.completions import CompletionRequest
from backends.wire.responses import ResponsesRequest
from catalog.errors import BudgetExceeded, PriceUnknown, StreamBroken, UnsupportedParameter, UpstreamProtocolError
from catalog.model import Capability, Limits, Model, Price
from catalog.types import Json
from routing.accounts.caps import Caps, SpendSettings
from routing.accounts.costs import cost_nano
from routing.calling.bounds import Bound, bounded
from routing.calling.job import Job
from routing.calling.operations import CHAT
from routing.calling.traces import TraceSettings
from routing.calling.watching.judgement import judge_for
from routing.facts import Facts, Intent
from routing.outcomes import Usage
from tests.routing.calling.conftest import dispatcher
from tests.routing.calling.scripted import FACTS, GOOD, REQUEST, Stand, end, local, remote, text
from tests.routing.calling.test_escalation import WantsFine

UPSTREAM = Upstream("cloud", "openai", "http://cloud/v1", "m")


def within(dollars: float, facts: Facts = FACTS) -> Facts:
    return replace(facts, intent=Intent(max_cost=dollars))


async def asked(
    stand: Stand, facts: Facts, *models: Model, request: ChatRequest = REQUEST
) -> tuple[Job[Json], dict[str, str]]:
    stand.backend.scripts = {model.id.rpartition("/")[2]: GOOD for model in models}
    stand.will_try(*models)
    job = Job(facts=facts, operation=CHAT, request=request, trace="trace-1")
    async with stand.dispatcher.open(job) as answer:
        assert [item async for item in answer]
        return job, answer.headers()


def sent_to(stand: Stand) -> ChatRequest:
    return stand.backend.requests[-1]


@pytest.mark.parametrize("choices", [1, 3])
@pytest.mark.parametrize("prompt", [0, 10, 1003])
async def test_the_longest_answer_that_is_asked_for_costs_at_most_max_cost(
    stand: Stand, prompt: int, choices: int
) -> None:
    model, facts = remote("a", "lan"), replace(FACTS, prompt_tokens=prompt, choices=choices)
    await asked(stand, within(0.01, facts), model)
    tokens = sent_to(stand).max_tokens
    assert tokens is not None

    def cost(answer: int) -> int:
        used = cost_nano(model.price, Usage(input=-(-prompt * 115 // 100) + 16, output=answer * choices))
        assert used is not None
        return used

    assert cost(tokens) <= 10_000_000 < cost(tokens + 1)


async def test_the_caller_reads_the_bound_in_a_header_and_in_the_trace(stand: Stand) -> None:
    _, headers = await asked(stand, within(0.001), remote("a", "lan"))
    assert headers["x-roundhouse-bound"] == "max_tokens=486; max_cost"
    trace = stand.traces.get("trace-1")
    assert trace is not None
    assert trace["attempts"][0]["bound"] == "max_tokens=486; max_cost"


async def test_a_further_job_of_a_request_has_what_is_left_of_max_cost_and_the_same_trace(stand: Stand) -> None:
    model = remote("a", "lan")
    await asked(stand, within(0.001), model)
    job = replace(stand.job(within(0.002)), further=True, spent=0.001)
    async with stand.dispatcher.open(job) as answer:
        assert [item async for item in answer]
        assert answer.headers()["x-roundhouse-bound"] == "max_tokens=486; max_cost"
    assert answer.spent > 0.001
    trace = stand.traces.get("trace-1")
    assert trace is not None
    assert [attempt["model"] for attempt in trace["attempts"]] == [model.id] * 2


async def test_a_request_without_a_limit_is_sent_as_it_is(stand: Stand) -> None:
    _, headers = await asked(stand, FACTS, remote("a", "lan"))
    assert sent_to(stand) is REQUEST
    assert "x-roundhouse-bound" not in headers


async def test_a_lower_bound_of_the_caller_stays(stand: Stand) -> None:
    request = REQUEST.model_copy(update={"max_tokens": 50})
    _, headers = await asked(
        stand, within(0.001, replace(FACTS, output_tokens=50)), remote("a", "lan"), request=request
    )
    assert sent_to(stand) is request
    assert "x-roundhouse-bound" not in headers


async def test_a_free_model_answers_at_any_length(stand: Stand) -> None:
    await asked(stand, within(0.0), local("a"))
    assert sent_to(stand) is REQUEST


async def test_no_bound_is_sent_that_the_context_window_could_not_hold(stand: Stand) -> None:
    roomy = remote("a", "lan").model_copy(update={"limits": Limits(context_window=400)})
    await asked(stand, within(0.001), roomy)
    assert sent_to(stand) is REQUEST  # the window ends the answer before the money does
    near = remote("a", "lan").model_copy(update={"limits": Limits(context_window=504)})
    await asked(stand, within(0.001), near)
    assert sent_to(stand).max_tokens == 476
    short = remote("a", "lan").model_copy(update={"limits": Limits(max_output_tokens=300)})
    await asked(stand, within(0.001), short)
    assert sent_to(stand) is REQUEST


@pytest.mark.parametrize("bound", [None, 20])
async def test_a_server_that_takes_no_bound_is_passed_over_for_one_that_does(
    stand: Stand, bound: int | None
) -> None:
    stand.backend.drops_of["a"] = ("max_tokens",)
    facts = within(0.001, replace(FACTS, output_tokens=bound))
    _, headers = await asked(stand, facts, remote("a", "lan"), remote("b", "lan"))
    assert headers["x-roundhouse-model"] == "lan/b"
    with pytest.raises(UnsupportedParameter, match=r"held to routing\.max_cost") as raised:
        await asked(stand, facts, remote("a", "lan"))
    assert raised.value.param == "routing.max_cost"
    assert [call.model for call in stand.backend.calls] == ["b"]


async def test_a_prompt_that_may_cost_more_than_max_cost_is_not_sent(stand: Stand) -> None:
    with pytest.raises(UnsupportedParameter, match="prompt alone"):
        await asked(stand, within(0.001, replace(FACTS, prompt_tokens=900)), remote("a", "lan"))
    assert not stand.backend.calls


async def test_tokens_that_are_written_to_a_cache_count_at_their_price(stand: Stand) -> None:
    dear = remote("a", "lan").model_copy(update={"price": Price(input=1, output=2, cache_write=10)})
    await asked(stand, within(0.001, replace(FACTS, prompt_tokens=20)), dear)
    assert sent_to(stand).max_tokens == (1000 - (23 + 16) * 10) // 2


async def test_max_cost_refuses_a_price_that_is_unknown(stand: Stand) -> None:
    with pytest.raises(PriceUnknown):
        await asked(stand, within(0.01), remote("a", "lan").model_copy(update={"price": Price(input=1)}))


@pytest.mark.parametrize("own", [None, 10])
@pytest.mark.parametrize("caps", [{"total": 1}, {"day": 1}, {"request": 1}])
async def test_a_cap_refuses_a_tier_of_service_whose_price_is_unknown(
    tmp_path: Path, caps: Json, own: int | None
) -> None:
    urgent = replace(FACTS, tiers=("priority",), output_tokens=own)
    priced = remote("a", "lan")
    priced = priced.model_copy(update={"price": priced.price.model_copy(update={"tiers": {"priority": 2.0}})})
    for unknown in ("refuse", "allow"):
        settings = SpendSettings.model_validate({"caps": caps, "unknown_price": unknown})
        async with dispatcher(tmp_path / unknown, settings, TraceSettings()) as stand:
            if unknown == "refuse":
                with pytest.raises(PriceUnknown, match="priority"):
                    await asked(stand, urgent, remote("a", "lan"))
                assert not stand.backend.requests
                await asked(stand, urgent, priced)
            else:
                await asked(stand, urgent, remote("a", "lan"))


async def test_max_cost_refuses_searches_whose_price_is_unknown(stand: Stand) -> None:
    searching = replace(FACTS, features=FACTS.features | {Capability.WEB_SEARCH})
    with pytest.raises(PriceUnknown):
        await asked(stand, within(0.01, searching), remote("a", "lan"))


async def test_a_cap_on_one_request_bounds_its_answer_too(tmp_path: Path) -> None:
    settings = SpendSettings(caps=Caps(request=0.005))
    async with dispatcher(tmp_path, settings, TraceSettings()) as stand:
        _, headers = await asked(stand, FACTS, remote("a", "lan"))
        assert headers["x-roundhouse-bound"] == "max_tokens=2486; request_cap"


@pytest.mark.parametrize("window", ["minute", "day", "total"])
async def test_what_is_left_of_a_spending_cap_bounds_an_answer_without_a_bound_of_its_own(
    tmp_path: Path, window: str
) -> None:
    settings = SpendSettings(caps=Caps.model_validate({window: 0.005}))
    async with dispatcher(tmp_path, settings, TraceSettings()) as stand:
        own = replace(FACTS, output_tokens=100)
        stand.backend.scripts, stand.plans[:] = {"a": (text("fine"), end(), NOTHING)}, []
        stand.will_try(remote("a", "lan"))
        async with stand.dispatcher.open(stand.job(own)) as answer:
            assert "x-roundhouse-bound" not in answer.headers()
            assert [item async for item in answer]
        _, headers = await asked(stand, FACTS, remote("a", "lan"))
        assert headers["x-roundhouse-bound"] == "max_tokens=1024; spending_cap"


async def test_answers_without_a_bound_that_are_in_progress_together_never_pass_a_cap(tmp_path: Path) -> None:
    row = remote("a", "lan")  # whose row names no longest answer
    async with dispatcher(tmp_path, SpendSettings(caps=Caps(day=0.05)), TraceSettings()) as stand:
        bounds = []
        async with AsyncExitStack() as open_answers:
            stand.plans[:] = []
            stand.will_try(row)
            for _ in range(50):
                stand.backend.scripts = {"a": (text("fine"), None, end(), NOTHING)}
                try:
                    answer = await open_answers.enter_async_context(stand.dispatcher.open(stand.job(FACTS)))
                except BudgetExceeded:
                    break
                name, _, limit = answer.headers()["x-roundhouse-bound"].partition("; ")
                assert limit == "spending_cap"
                bounds.append(int(name.removeprefix("max_tokens=")))
            assert len(bounds) > 5, "one answer leaves room for others"
            assert bounds[0] > 5000
            assert sum(bounds) * 2e-6 <= 0.05
        (usage,) = stand.spend.cap_usage("")
        assert usage.spent <= 0.05
        assert usage.spent < sum(bounds) * 2e-6 / 2, "answers that were given up are not booked as the longest"


async def test_an_answer_that_a_share_of_the_cap_pays_is_reserved_whole_and_not_bounded(tmp_path: Path) -> None:
    async with dispatcher(tmp_path, SpendSettings(caps=Caps(day=10)), TraceSettings()) as stand:
        row = remote("a", "lan").model_copy(update={"limits": Limits(max_output_tokens=100_000)})
        stand.backend.scripts, stand.plans[:] = {"a": (text("fine"), end(), NOTHING)}, []
        stand.will_try(row)
        async with stand.dispatcher.open(stand.job(FACTS)) as answer:
            assert "x-roundhouse-bound" not in answer.headers()
            (usage,) = stand.spend.cap_usage("")
            assert usage.spent >= 0.2
            assert [item async for item in answer]
        (usage,) = stand.spend.cap_usage("")
        assert usage.spent < 0.01


async def test_an_answer_is_reserved_no_more_than_its_bound(tmp_path: Path) -> None:
    async with dispatcher(tmp_path, SpendSettings(caps=Caps(day=0.001)), TraceSettings()) as stand:
        _, headers = await asked(stand, FACTS, remote("a", "lan"))
        assert headers["x-roundhouse-bound"] == "max_tokens=486; spending_cap"


async def test_a_prompt_that_may_cost_more_than_is_left_says_when_more_is(tmp_path: Path) -> None:
    async with dispatcher(tmp_path, SpendSettings(caps=Caps(day=0.001)), TraceSettings()) as stand:
        with pytest.raises(BudgetExceeded, match="left of the spending cap") as raised:
            await asked(stand, replace(FACTS, prompt_tokens=900), remote("a", "lan"))
        assert raised.value.retry_after
        assert not stand.backend.calls


NOTHING: Json = {"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 1}}
PAID: Json = {"choices": [], "usage": {"prompt_tokens": 1000, "completion_tokens": 1500}}
"""4,000 millionths of a dollar."""


def fails_after(stand: Stand, facts: Facts, *, answer: bool) -> Job[Json]:
    """A job whose first candidate is paid for an answer that its judge refuses, or for none."""
    stand.backend.scripts = {"a": (text("no"), end(), PAID), "b": GOOD}
    stand.will_try(remote("a", "lan"), remote("b", "lan"))
    if answer:
        return stand.job(replace(facts, intent=replace(facts.intent, escalate=True)), judge=WantsFine)
    stand.backend.scripts["a"] = (StreamBroken("closed"),)
    return stand.job(facts)


@pytest.mark.parametrize("limit", ["max_cost", "request_cap"])
async def test_an_attempt_may_cost_what_the_attempts_before_it_left(tmp_path: Path, limit: str) -> None:
    caps = Caps(request=0.005) if limit == "request_cap" else Caps()
    async with dispatcher(tmp_path, SpendSettings(caps=caps), TraceSettings()) as stand:
        facts = within(0.005) if limit == "max_cost" else FACTS
        async with stand.dispatcher.open(fails_after(stand, facts, answer=True)) as answer:
            assert answer.headers()["x-roundhouse-model"] == "lan/b"
            assert answer.headers()["x-roundhouse-bound"] == f"max_tokens=486; {limit}"


async def test_an_estimate_of_what_a_broken_attempt_cost_counts_too(stand: Stand) -> None:
    async with stand.dispatcher.open(fails_after(stand, within(0.001), answer=False)) as answer:
        tokens = stand.backend.requests[-1].max_tokens
        assert answer.model.id == "lan/b"
        assert tokens == 486 - 5  # ten tokens of the prompt


async def test_nothing_is_asked_once_earlier_attempts_have_used_up_the_limit(stand: Stand) -> None:
    job = fails_after(stand, within(0.004), answer=True)
    with pytest.raises(UpstreamProtocolError, match="did not follow"):  # this may pass, unlike the limit
        async with stand.dispatcher.open(job):
            pass
    assert len(stand.backend.calls) == 1


async def test_the_fees_of_searches_count_for_max_cost(stand: Stand) -> None:
    model = remote("a", "lan").model_copy(update={"price": Price(input=1, output=2, web_search=10)})
    facts = replace(FACTS, features=frozenset({Capability.WEB_SEARCH}))
    await asked(stand, within(0.051, facts), model)
    assert sent_to(stand).max_tokens == 486
    with pytest.raises(UnsupportedParameter, match="web searches may read and 5 searches alone"):
        await asked(stand, within(0.05, facts), model)


async def test_an_answer_longer_than_the_model_gives_is_refused_and_asked_of_another(stand: Stand) -> None:
    short = remote("a", "lan").model_copy(update={"limits": Limits(max_output_tokens=300)})
    facts, request = replace(FACTS, output_tokens=301), REQUEST.model_copy(update={"max_tokens": 301})
    _, headers = await asked(stand, facts, short, remote("b", "lan"), request=request)
    assert headers["x-roundhouse-model"] == "lan/b"
    with pytest.raises(UnsupportedParameter, match="at most 300 tokens") as raised:
        await asked(stand, facts, short, request=request)
    assert raised.value.param == "max_tokens"
    assert [call.model for call in stand.backend.calls] == ["b"]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_a_local_model_ends_its_answer_at_its_limit_and_says_so(stand: Stand, name: str) -> None:
    short = local("a").model_copy(update={"limits": Limits(context_window=300, max_output_tokens=300)})
    facts = replace(FACTS, output_tokens=32_000)
    request = REQUEST.model_copy(update={"max_tokens": None, name: 32_000})
    _, headers = await asked(stand, facts, short, request=request)
    assert headers["x-roundhouse-dropped"] == "max_tokens"
    assert sent_to(stand).output_limit == 300
    with pytest.raises(UnsupportedParameter, match="max_tokens"):
        await asked(stand, replace(facts, intent=replace(facts.intent, strict=True)), short, request=request)
    assert len(stand.backend.calls) == 1


RESPONSES = {"wire": "responses"}


async def test_a_caller_that_asks_for_less_than_the_server_gives_is_held_to_max_cost(stand: Stand) -> None:
    model = remote("a", "lan").model_copy(update=RESPONSES)
    stand.backend.drops = ("max_tokens",)
    request, facts = REQUEST.model_copy(update={"max_tokens": 10}), replace(FACTS, output_tokens=10)
    _, headers = await asked(stand, within(0.001, facts), model, request=request)
    assert headers["x-roundhouse-dropped"] == "max_tokens"
    with pytest.raises(UnsupportedParameter, match="no bound below 16 tokens"):
        await asked(stand, within(0.00005, facts), model, request=request)


async def test_the_lowest_of_several_limits_counts(stand: Stand) -> None:
    stand.backend.scripts = {"a": GOOD}
    stand.will_try(remote("a", "lan"))
    for tokens, told in ((7, "max_tokens=7; key_tokens"), (7000, "max_tokens=486; max_cost")):
        job = replace(stand.job(within(0.001)), bound=Bound(tokens, "key_tokens"))
        async with stand.dispatcher.open(job) as answer:
            assert answer.headers()["x-roundhouse-bound"] == told


@pytest.mark.parametrize(("limited", "valid"), [(True, None), (False, False)])
async def test_a_form_that_was_cut_at_a_bound_proves_nothing(
    stand: Stand, limited: bool, valid: bool | None
) -> None:
    stand.backend.scripts = {"a": (text('{"age"'), end("length"))}
    stand.will_try(remote("a", "lan"))
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    asked = ChatRequest.model_validate({"messages": [{"role": "user", "content": "Hi"}], "response_format": form})
    await stand.ask(replace(stand.job(within(0.001) if limited else FACTS, judge_for(asked)), request=asked))
    assert stand.recorder.outcomes[0].valid is valid


def test_the_bound_has_the_name_that_the_caller_or_the_row_uses() -> None:
    bound = Bound(7, "max_cost")
    newer = REQUEST.model_copy(update={"max_completion_tokens": 20})
    assert bounded(newer, bound, UPSTREAM).to_wire()["max_completion_tokens"] == 7
    only = replace(UPSTREAM, parameters=frozenset({"max_completion_tokens"}))
    assert bounded(REQUEST, bound, only).to_wire()["max_completion_tokens"] == 7
    assert bounded(CompletionRequest(prompt="x"), bound, UPSTREAM).to_wire()["max_tokens"] == 7


@pytest.mark.parametrize(("wire", "name"), [("responses", "max_output_tokens"), ("messages", "max_tokens")])
def test_a_request_that_passes_through_in_its_own_language_is_bounded_there(wire: str, name: str) -> None:
    own: WireModel = ResponsesRequest(input="hi")
    chat = TranslatedChat.of(
        {"model": "auto", "messages": [{"role": "user", "content": "hi"}]},
        ("x",),
        frozenset({"y"}),
        Original(wire, own),
    )
    made = bounded(chat, Bound(7, "max_cost"), UPSTREAM)
    assert isinstance(made, TranslatedChat)
    assert made.original is not None
    assert made.original.request.to_wire()[name] == 7
    assert made.to_wire()["max_tokens"] == 7
    assert (made.left_out, made.foreign) == (("x",), frozenset({"y"}))
    assert own.to_wire() == {"input": "hi"}


@pytest.mark.parametrize(("given", "ignored"), [(500, True), (9, False), (5, False)])
async def test_a_server_that_ignores_the_bound_of_an_answer_is_told_of(
    stand: Stand, given: int, ignored: bool
) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": given}
    stand.backend.scripts = {"m": (text("fine"), end(), {"choices": [], "usage": usage})}
    stand.will_try(remote("m"))
    async with stand.dispatcher.open(stand.job(replace(FACTS, output_tokens=5))) as answer:
        assert [item async for item in answer]
        assert answer.headers().get("x-roundhouse-dropped") == ("max_tokens" if ignored else None)


async def test_the_tokens_of_reasoning_do_not_count_for_a_bound_that_a_server_ignored(stand: Stand) -> None:
    details = {"reasoning_tokens": 490}
    usage = {"prompt_tokens": 10, "completion_tokens": 495, "completion_tokens_details": details}
    stand.backend.scripts = {"m": (text("fine"), end(), {"choices": [], "usage": usage})}
    stand.will_try(remote("m"))
    async with stand.dispatcher.open(stand.job(replace(FACTS, output_tokens=5))) as answer:
        assert [item async for item in answer]
        assert "x-roundhouse-dropped" not in answer.headers()
