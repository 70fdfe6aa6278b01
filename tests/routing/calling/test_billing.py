"""A call that a paid upstream may have billed is booked, though nothing of its answer came."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from backends.base import Timeouts, Upstream
from backends.http import HttpClient
from catalog.errors import (
    AnswerInvalid,
    ConnectTimeout,
    FirstByteTimeout,
    InvalidRequest,
    RoundhouseError,
    StreamBroken,
    TotalTimeout,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamUnreachable,
)
from catalog.model import Capability
from routing.facts import Facts
from routing.outcomes import Result
from tests.backends.http.test_client import listening
from tests.loop_time import virtual_time
from tests.routing.calling.scripted import ROLE, Stand, local, remote, text

FACTS = Facts(Capability.CHAT, prompt_tokens=1_000_000, output_tokens=500_000)


def sent(error: UpstreamError) -> UpstreamError:
    error.may_bill = True
    return error


@pytest.mark.parametrize(
    ("error", "booked"),
    [
        (sent(FirstByteTimeout("late")), 1.0),
        (TotalTimeout("late"), 1.0),
        (StreamBroken("cut"), 1.0),
        (AnswerInvalid("no JSON"), 1.0),
        (sent(UpstreamUnreachable("closed")), 1.0),
        (FirstByteTimeout("never connected"), 0.0),
        (ConnectTimeout("never connected"), 0.0),
        (UpstreamUnreachable("refused"), 0.0),
        (UpstreamOverloaded("busy"), 0.0),
        (UpstreamRateLimited("slow down"), 0.0),
        (InvalidRequest("no"), 0.0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_a_failed_call_books_its_prompt_if_the_upstream_had_the_whole_request(
    capped: Stand, error: RoundhouseError, booked: float
) -> None:
    capped.backend.scripts = {"a": (ROLE, error)}
    capped.will_try(remote("a", "lan"))
    with pytest.raises(type(error)):
        await capped.ask(capped.job(FACTS))
    assert capped.spend.cap_usage("")[0].spent == pytest.approx(booked)
    outcome = capped.recorder.outcomes[0]
    assert not outcome.usage.known
    assert outcome.cost is (None if booked else outcome.cost)
    await asyncio.sleep(0.05)
    rows = await capped.spend.usage("2000-01-01", "2999-01-01")
    assert sum(row.estimated for row in rows) == booked * 10**9
    assert sum(row.unknown for row in rows) == bool(booked)
    assert sum(row.cost for row in rows) == 0


async def test_a_caller_who_leaves_before_the_first_token_books_the_prompt(capped: Stand) -> None:
    capped.backend.scripts = {"a": (ROLE, None)}
    capped.will_try(remote("a"))
    task = asyncio.create_task(capped.ask(capped.job(FACTS)))
    while not capped.backend.open:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await capped.dispatcher.settle()
    assert capped.results == [("cloud/a", Result.CANCELLED)]
    assert capped.spend.cap_usage("")[0].spent == pytest.approx(1.0)


@pytest.mark.parametrize("broken", [False, True])
async def test_a_stream_that_is_cut_counts_the_tokens_that_came(capped: Stand, broken: bool) -> None:
    pieces = [text("x"), text("y" * 40), text("z")]
    capped.backend.scripts = {"a": (ROLE, *pieces, StreamBroken("cut") if broken else None)}
    capped.will_try(remote("a"))
    with contextlib.suppress(StreamBroken):
        async with capped.dispatcher.open(capped.job(FACTS)) as answer:
            async for item in answer:
                if not broken and item["choices"][0]["delta"].get("content") == "z":
                    break
    await capped.dispatcher.settle()
    (outcome,) = capped.recorder.outcomes
    assert outcome.result is (Result.FAILED if broken else Result.CANCELLED)
    assert (outcome.usage.input, outcome.usage.output, outcome.usage.known) == (FACTS.prompt_tokens, 10, False)
    price = remote("a").price
    assert price.input is not None
    assert price.output is not None
    # A quarter more for the error of the estimate, and 16 for what was decoded before the end was noticed.
    came = (FACTS.prompt_tokens * price.input + (13 + 16) * price.output) / 1e6
    assert capped.spend.cap_usage("")[0].spent == pytest.approx(came)
    row = (await capped.spend.usage("2000-01-01", "2999-01-01"))[0]
    assert (row.output, row.unknown) == (10, 1)
    assert row.estimated == pytest.approx(came * 10**9)


@pytest.mark.parametrize(
    ("facts", "reasons", "tokens"),
    [
        (replace(FACTS, output_tokens=None), False, 2 + 16),
        (replace(FACTS, output_tokens=5), False, 5),
        (replace(FACTS, output_tokens=5, choices=2), False, 10),
        (replace(FACTS, output_tokens=None), True, 300 + 2 + 16),
    ],
    ids=["without a bound", "within the bound", "of each choice", "reasoning before the first token"],
)
async def test_the_caps_count_an_upper_estimate_of_a_cut_stream_and_not_the_reserved_amount(
    capped: Stand, facts: Facts, reasons: bool, tokens: int
) -> None:
    capped.backend.scripts = {"a": (ROLE, text("x"), None)}
    model = remote("a")
    if reasons:
        model = model.model_copy(update={"capabilities": model.capabilities | {Capability.REASONING}})
    capped.will_try(model)
    capped.backend.before = lambda: capped.clock.advance(3.0)
    async with capped.dispatcher.open(capped.job(facts)) as answer:
        async for item in answer:
            if item["choices"][0]["delta"]["content"]:
                break
    await capped.dispatcher.settle()
    assert capped.spend.cap_usage("")[0].spent == pytest.approx(1.0 + tokens * 2 / 1e6, abs=1e-9)


async def test_the_letters_of_tool_calls_count_for_a_cut_stream(capped: Stand) -> None:
    call = {"index": 0, "function": {"name": "f", "arguments": "x" * 399}}
    delta = {"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]}
    capped.backend.scripts = {"a": (ROLE, delta, StreamBroken("cut"))}
    capped.will_try(remote("a"))
    with pytest.raises(StreamBroken):
        await capped.ask(capped.job(FACTS))
    assert capped.recorder.outcomes[0].usage.output == 100


async def test_a_local_model_that_fails_costs_nothing(capped: Stand) -> None:
    capped.backend.scripts = {"a": (StreamBroken("cut"),)}
    capped.will_try(local("a"))
    with pytest.raises(StreamBroken):
        await capped.ask(capped.job(FACTS))
    assert capped.recorder.outcomes[0].cost == 0
    assert capped.spend.cap_usage("")[0].spent == 0


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    async with HttpClient() as client:
        yield client


async def ask(http: HttpClient, address: str, body: object) -> UpstreamError:
    upstream = Upstream("slow", "openai", address, "m", timeouts=Timeouts(first_byte=1.0))
    with pytest.raises(UpstreamError) as failed:
        async with http.open(upstream, "POST", "/chat/completions", json=body):
            pass
    return failed.value


async def test_a_request_that_was_sent_and_not_answered_in_time_may_be_billed(http: HttpClient) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 20)
        await asyncio.sleep(10)
        writer.close()

    async with listening(silent) as address:
        with virtual_time():
            error = await ask(http, address, {})
            assert isinstance(error, FirstByteTimeout)
            assert error.may_bill


async def test_a_request_that_was_not_read_is_not_billed(http: HttpClient) -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(10)
        writer.transport.abort()

    async with listening(deaf) as address:
        with virtual_time():
            error = await ask(http, address, "x" * 50_000_000)
            assert isinstance(error, FirstByteTimeout)
            assert not error.may_bill


async def test_a_connection_that_closes_instead_of_an_answer_may_be_billed(http: HttpClient) -> None:
    async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with listening(hangs_up) as address:
        error = await ask(http, address, {})
        assert isinstance(error, UpstreamUnreachable)
        assert error.may_bill


async def test_a_refused_connection_is_not_billed(http: HttpClient) -> None:
    async def unused(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None: ...

    async with listening(unused) as address:
        pass
    assert not (await ask(http, address, {})).may_bill
