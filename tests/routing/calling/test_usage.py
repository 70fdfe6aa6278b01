"""Usage is believed only where it can be true; otherwise it is unknown and the reserved amount is booked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.model import Capability, Price
from catalog.types import Json
from routing.accounts.costs import cost_nano, longest_prompt
from routing.calling import operations
from routing.calling.watching.observers import ChunkObserver, ImageObserver, ObjectObserver, TranscriptObserver
from routing.calling.watching.usage import MOST_TOKENS, most_prompt_tokens, token_usage
from routing.facts import Facts
from tests.routing.calling.scripted import Stand, end, remote, text

PRICE = Price(input=3, output=15, cache_read=0.3, cache_write=3.75)
RESERVED = (longest_prompt(1000) * 1 + 500 * 2) / 1e6
"""Dollars for a prompt of 1,000 estimated tokens at $1 and 500 tokens of an answer at $2."""
FALSE: list[Any] = [
    "abc", 5, True, [], {}, [{"prompt_tokens": 1}], {"prompt_tokens": None}, {"tokens": 5},
    {"prompt_tokens": -1, "completion_tokens": 5},
    {"prompt_tokens": 5, "completion_tokens": -1},
    {"prompt_tokens": 10**18, "completion_tokens": 5},
    {"prompt_tokens": 5, "completion_tokens": 10**18},
    {"prompt_tokens": "5", "completion_tokens": 5},
    {"prompt_tokens": 5.5, "completion_tokens": 5},
    {"prompt_tokens": 1e300, "completion_tokens": 5},
    {"prompt_tokens": True, "completion_tokens": 5},
    {"prompt_tokens": [5], "completion_tokens": {}},
    {"prompt_tokens": 5, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 6}},
    {"prompt_tokens": 5, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": -6}},
    {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 3}},
    {"prompt_tokens": 5, "completion_tokens": 5, "prompt_tokens_details": "many"},
    {"prompt_tokens": 5, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": -1}},
    {"total_tokens": -1},
]  # fmt: skip


@pytest.mark.parametrize("usage", FALSE, ids=repr)
async def test_usage_that_cannot_be_true_is_unknown_and_the_reserved_amount_is_booked(
    capped: Stand, usage: Any
) -> None:
    capped.backend.scripts = {"liar": (text("fine"), end(), {"choices": [], "usage": usage})}
    capped.will_try(remote("liar"))
    _, items = await capped.ask(capped.job(Facts(Capability.CHAT, prompt_tokens=1000, output_tokens=500)))
    assert all(item.get("usage") is None for item in items)
    outcome = capped.recorder.outcomes[0]
    assert not outcome.usage.known
    assert outcome.cost is None
    assert capped.spend.cap_usage("")[0].spent == pytest.approx(RESERVED)


@pytest.mark.parametrize(
    ("facts", "most"),
    [
        (Facts(Capability.CHAT, prompt_tokens=2), 131_092),
        (Facts(Capability.EMBED, prompt_tokens=1000), 141_072),
        (Facts(Capability.CHAT, prompt_tokens=2, features=frozenset({Capability.TOOLS})), 131_092),
        (Facts(Capability.CHAT, prompt_tokens=2, features=frozenset({Capability.VISION})), MOST_TOKENS),
        (Facts(Capability.CHAT, prompt_tokens=2, features=frozenset({Capability.DOCUMENTS})), MOST_TOKENS),
        (Facts(Capability.CHAT, prompt_tokens=2, hosted=True), MOST_TOKENS),
        (Facts(Capability.EMBED, prompt_tokens=MOST_TOKENS), MOST_TOKENS),
    ],
)
def test_a_text_has_no_more_prompt_tokens_than_ten_times_its_estimate_and_a_servers_own(
    facts: Facts, most: int
) -> None:
    assert most_prompt_tokens(facts) == most
    for tokens, known in ((most, True), (most + 1, False)):
        operation = operations.CHAT if facts.capability is Capability.CHAT else operations.EMBED
        observer = operation.observer(facts, "m")
        observer.see({"usage": {"prompt_tokens": tokens, "completion_tokens": 5}})
        assert observer.usage.known is known


async def test_an_absurd_prompt_is_booked_by_its_estimate(capped: Stand) -> None:
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 5}
    capped.backend.scripts = {"liar": (text("fine"), end(), {"choices": [], "usage": usage})}
    capped.will_try(remote("liar"))
    _, items = await capped.ask(capped.job(Facts(Capability.CHAT, prompt_tokens=1000, output_tokens=500)))
    assert all(item.get("usage") is None for item in items)
    assert capped.spend.cap_usage("")[0].spent == pytest.approx(RESERVED)


async def test_zeros_for_all_are_a_placeholder_and_no_free_call(capped: Stand) -> None:
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    capped.backend.scripts = {"liar": (text("fine"), end(), {"choices": [], "usage": dict(zeros)})}
    capped.will_try(remote("liar"))
    _, items = await capped.ask(capped.job(Facts(Capability.CHAT, prompt_tokens=1000, output_tokens=500)))
    assert items[-1]["usage"] == zeros
    assert capped.recorder.outcomes[0].cost is None
    assert capped.spend.cap_usage("")[0].spent == pytest.approx(RESERVED)
    observer = ObjectObserver("m")
    observer.see({"usage": dict(zeros)})
    assert not observer.usage.known


def test_a_total_of_another_type_is_as_good_as_none() -> None:
    details = {"reasoning_tokens": 3}
    usage = {"prompt_tokens": 5, "completion_tokens": 1, "completion_tokens_details": details, "total_tokens": []}
    read = token_usage(usage)
    assert read is not None
    assert (read.input, read.output, read.reasoning) == (5, 4, 3)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
COUNTS = JSON | st.integers(-3, 50)
DETAILS = JSON | st.fixed_dictionaries({}, optional={"cached_tokens": COUNTS, "cache_write_tokens": COUNTS})
USAGES = JSON | st.fixed_dictionaries(
    {},
    optional={
        "prompt_tokens": COUNTS,
        "completion_tokens": COUNTS,
        "input_tokens": COUNTS,
        "total_tokens": COUNTS,
        "prompt_tokens_details": DETAILS,
        "completion_tokens_details": JSON | st.fixed_dictionaries({"reasoning_tokens": COUNTS}),
    },
)


@given(USAGES)
def test_no_usage_costs_less_than_nothing_or_more_than_its_bound(usage: Any) -> None:
    read = token_usage(usage)
    if read is None:
        return
    assert 0 <= read.cached + read.cache_write <= read.input <= MOST_TOKENS
    assert 0 <= read.reasoning <= read.output <= 2 * MOST_TOKENS
    assert (cost_nano(PRICE, read) or 0) >= 0


@given(USAGES, JSON)
def test_an_observer_takes_any_usage_and_leaves_a_regular_one(usage: Any, duration: Any) -> None:
    chunk: Json = {"choices": [], "usage": usage}
    ChunkObserver("m").see(chunk)
    if chunk.get("usage") is not None:
        assert all(
            type(chunk["usage"][name]) is int for name in ("prompt_tokens", "completion_tokens", "total_tokens")
        )
    ObjectObserver("m", units=1.0).see({"usage": usage})
    ImageObserver().see({"type": "image_generation.completed", "usage": usage})
    transcript = TranscriptObserver()
    transcript.see({"type": "transcript.text.done", "usage": usage, "duration": duration})
    assert transcript.usage.units >= 0


@pytest.mark.parametrize(
    ("usage", "input_", "output"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 2}, 7, 2),
        ({"input_tokens": 7, "output_tokens": 2}, 7, 2),
        ({"prompt_tokens": 7.0, "completion_tokens": None}, 7, 0),
        ({"total_tokens": 9}, 9, 0),
        (
            {"prompt_tokens": 7, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 90}},
            7,
            92,
        ),
        (
            {"prompt_tokens": 7, "completion_tokens": 92, "completion_tokens_details": {"reasoning_tokens": 90}},
            7,
            92,
        ),
    ],
)
def test_the_spellings_of_usage_are_read(usage: Json, input_: int, output: int) -> None:
    read = token_usage(usage)
    assert read is not None
    assert (read.input, read.output) == (input_, output)


@pytest.mark.parametrize(
    ("done", "minutes", "known"),
    [
        ({"duration": 30}, 0.5, True),
        ({"usage": {"type": "duration", "seconds": 30}}, 0.5, True),
        ({"usage": {"type": "tokens", "input_tokens": 5, "output_tokens": 1}}, 0.0, True),
        ({}, 0.0, False),
        ({"duration": -30}, 0.0, False),
        ({"duration": "long"}, 0.0, False),
        ({"duration": 1e18}, 0.0, False),
        ({"usage": {"type": "duration", "seconds": -30}}, 0.0, False),
    ],
)
def test_a_transcript_without_a_plausible_length_is_not_free(done: Json, minutes: float, known: bool) -> None:
    observer = TranscriptObserver()
    observer.see({"type": "transcript.text.done", "text": "a", **done})
    assert (observer.usage.units, observer.usage.known) == (minutes, known)
