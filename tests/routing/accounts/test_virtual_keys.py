"""Roundhouse's own API keys: shown once, stored as digests, limited, revoked."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from catalog.errors import InvalidRequest, NotFound, RateLimited, Unavailable
from routing.accounts.caps import Caps
from routing.accounts.reservations import TokenGrant
from routing.accounts.virtual_keys import KeyLimits, Rate, VirtualKeys
from routing.facts import Facts
from routing.outcomes import Result, Usage
from routing.state.sqlite import SqliteState
from tests.routing.clocks import ManualClock
from tests.routing.outcome_factory import CHAT, outcome


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[SqliteState]:
    home = SqliteState(tmp_path / "state.sqlite")
    await home.start()
    yield home
    await home.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def keys(state: SqliteState, clock: ManualClock) -> VirtualKeys:
    return VirtualKeys(state, clock)


def bytes_in(folder: Path) -> bytes:
    return b"".join(part.read_bytes() for part in folder.iterdir())


async def test_a_store_that_cannot_write_is_waited_for_briefly_and_leaves_no_key_behind(
    keys: VirtualKeys, state: SqliteState, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, leaked = await keys.create("old"), await keys.create("leaked")
    monkeypatch.setattr("routing.state.sqlite_records.STORE_TIMEOUT", 0.05)
    locker = sqlite3.connect(tmp_path / "state.sqlite", isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable):
        await keys.create("never")
    with pytest.raises(Unavailable):
        await keys.rotate(old.info.id)
    with pytest.raises(Unavailable):
        await keys.revoke(leaked.info.id)
    await keys.sync()
    assert keys.authenticate(leaked.secret) is None, "a revocation is in force, although it is not stored"
    locker.close()
    await asyncio.wait_for(state.flush(), 30)
    again = VirtualKeys(state, clock)
    await again.start()
    for each in (keys, again):
        assert {info.name for info in each.list()} == {"old", "leaked"}
        assert each.authenticate(old.secret) is not None, "its secret is as it was"
        assert each.authenticate(leaked.secret) is None


async def limited(keys: VirtualKeys, requests: Rate | None = None, tokens: Rate | None = None) -> str:
    limits = KeyLimits(requests=requests or Rate(), tokens=tokens or Rate())
    return (await keys.create("limited", limits=limits)).info.id


async def ask(keys: VirtualKeys, key: str, prompt_tokens: int = 10) -> None:
    """A request whose answer is empty."""
    facts = replace(CHAT, key=key, prompt_tokens=prompt_tokens)
    grant = await keys.admit(keys.get(key), facts)
    finish(keys, grant, facts, Usage(input=prompt_tokens))


def finish(keys: VirtualKeys, grant: TokenGrant | None, facts: Facts, usage: Usage, duration: float = 0.5) -> None:
    keys.record(outcome(Result.SUCCESS, facts=facts, usage=usage, duration=duration))
    if grant is not None:
        keys.settle(grant)


async def test_a_new_key_authenticates_and_its_secret_is_nowhere_in_the_state(
    keys: VirtualKeys, clock: ManualClock, tmp_path: Path
) -> None:
    made = await keys.create("alice", models=("openai/*",), admin=True)
    assert made.secret.startswith("rh-")
    assert len(made.secret) == 46
    assert keys.authenticate(made.secret) == made.info
    assert made.secret not in repr(made)
    stored = bytes_in(tmp_path)
    assert made.info.digest.encode() in stored
    assert made.secret.encode() not in stored
    assert "digest" not in made.info.public()


async def test_a_key_survives_a_restart(keys: VirtualKeys, state: SqliteState, clock: ManualClock) -> None:
    made = await keys.create("alice", limits=KeyLimits(spend=Caps(day=1)))
    again = VirtualKeys(state, clock)
    await again.start()
    assert again.authenticate(made.secret) == made.info
    assert again.caps(made.info.id) == Caps(day=1)


@pytest.mark.parametrize(
    "change", [lambda s: s[:-1], lambda s: s + "x", lambda s: s.upper(), lambda _: "", lambda _: "\ud800"]
)
async def test_only_the_whole_secret_authenticates(keys: VirtualKeys, change: object) -> None:
    made = await keys.create("alice")
    assert callable(change)
    assert keys.authenticate(change(made.secret)) is None
    assert keys.authenticate(made.info.digest) is None


async def test_a_revocation_takes_effect_here_at_once_and_elsewhere_after_a_sync(
    keys: VirtualKeys, state: SqliteState, clock: ManualClock
) -> None:
    made = await keys.create("alice")
    elsewhere = VirtualKeys(state, clock)
    await elsewhere.start()
    await keys.revoke(made.info.id)
    assert keys.authenticate(made.secret) is None
    assert elsewhere.authenticate(made.secret) is not None
    await elsewhere.sync()
    assert elsewhere.authenticate(made.secret) is None
    assert [info.revoked_at for info in elsewhere.list()] == [clock.wall()]


async def test_a_key_expires(keys: VirtualKeys, clock: ManualClock) -> None:
    made = await keys.create("alice", expires_at=clock.wall() + 60)
    clock.advance(59)
    assert keys.authenticate(made.secret) is not None
    clock.advance(1)
    assert keys.authenticate(made.secret) is None


async def test_a_clock_that_was_ahead_for_a_moment_ends_no_key_for_good(
    keys: VirtualKeys, clock: ManualClock
) -> None:
    now = clock.wall()
    made = await keys.create("alice", expires_at=now + 86_400)
    clock.set_wall(now + 3 * 86_400)
    assert keys.authenticate(made.secret) is None
    clock.set_wall(now)
    assert keys.authenticate(made.secret) is not None


async def test_an_expiry_in_the_past_and_an_invalid_name_are_refused(
    keys: VirtualKeys, clock: ManualClock
) -> None:
    with pytest.raises(InvalidRequest, match="past"):
        await keys.create("alice", expires_at=clock.wall())
    with pytest.raises(InvalidRequest, match="name"):
        await keys.create("")


async def test_after_a_rotation_the_old_secret_is_valid_for_its_grace(
    keys: VirtualKeys, clock: ManualClock
) -> None:
    made = await keys.create("alice")
    rotated = await keys.rotate(made.info.id, grace=60)
    assert rotated.secret != made.secret
    assert keys.authenticate(rotated.secret) == keys.authenticate(made.secret) == rotated.info
    clock.advance(60)
    assert keys.authenticate(made.secret) is None
    assert keys.authenticate(rotated.secret) is not None
    at_once = await keys.rotate(made.info.id)
    assert keys.authenticate(rotated.secret) is None
    assert keys.authenticate(at_once.secret) is not None


async def test_unknown_keys_cannot_be_changed_and_revoked_ones_not_rotated(keys: VirtualKeys) -> None:
    for change in (keys.revoke, keys.rotate):
        with pytest.raises(NotFound):
            await change("key-unknown")
    made = await keys.create("alice")
    await keys.revoke(made.info.id)
    with pytest.raises(InvalidRequest, match="revoked"):
        await keys.rotate(made.info.id)


async def test_requests_are_limited_per_window_with_the_time_to_wait(
    keys: VirtualKeys, clock: ManualClock
) -> None:
    key = await limited(keys, requests=Rate(minute=2, day=3))
    await ask(keys, key)
    await ask(keys, key)
    with pytest.raises(RateLimited, match="2 requests per minute") as refused:
        await ask(keys, key)
    assert refused.value.retry_after is not None
    clock.advance(refused.value.retry_after)
    await ask(keys, key)
    with pytest.raises(RateLimited, match="3 requests per day") as refused:
        await ask(keys, key)
    assert refused.value.retry_after is not None
    clock.advance(refused.value.retry_after)
    await ask(keys, key)


async def test_a_refused_request_is_counted_nowhere(keys: VirtualKeys) -> None:
    key = await limited(keys, requests=Rate(day=1), tokens=Rate(day=5))
    with pytest.raises(RateLimited):
        await ask(keys, key, prompt_tokens=6)
    await ask(keys, key, prompt_tokens=5)


async def test_tokens_count_the_estimate_at_the_gate_and_the_usage_afterwards(keys: VirtualKeys) -> None:
    key = await limited(keys, tokens=Rate(day=100))
    facts = replace(CHAT, key=key, prompt_tokens=30)
    grant = await keys.admit(keys.get(key), facts)
    keys.record(outcome(Result.FAILED, facts=facts, usage=Usage(input=5)))
    finish(keys, grant, facts, Usage(input=20, output=35))
    with pytest.raises(RateLimited):
        await ask(keys, key, prompt_tokens=41)
    await ask(keys, key, prompt_tokens=40)
    with pytest.raises(RateLimited):
        await ask(keys, key, prompt_tokens=0)


async def test_a_prompt_above_the_whole_limit_gets_no_retry_after(keys: VirtualKeys) -> None:
    key = await limited(keys, tokens=Rate(minute=100))
    with pytest.raises(RateLimited) as refused:
        await ask(keys, key, prompt_tokens=101)
    assert refused.value.retry_after is None


async def test_gateways_together_keep_a_limit_without_an_exchange_and_over_a_restart(
    keys: VirtualKeys, state: SqliteState, clock: ManualClock
) -> None:
    key = await limited(keys, requests=Rate(day=4))
    elsewhere = VirtualKeys(state, clock)
    await elsewhere.start()
    for one in (keys, elsewhere, keys, elsewhere):
        await ask(one, key)
    again = VirtualKeys(state, clock)
    await again.start()
    for one in (keys, elsewhere, again):
        with pytest.raises(RateLimited):
            await ask(one, key)


async def test_tokens_that_one_gateway_used_are_counted_by_the_other(
    keys: VirtualKeys, state: SqliteState, clock: ManualClock
) -> None:
    key = await limited(keys, tokens=Rate(day=100))
    elsewhere = VirtualKeys(state, clock)
    await elsewhere.start()
    facts = replace(CHAT, key=key, prompt_tokens=10)
    finish(keys, await keys.admit(keys.get(key), facts), facts, Usage(input=10, output=90))
    with pytest.raises(RateLimited, match="used up"):
        await ask(elsewhere, key, prompt_tokens=1)


async def test_an_answer_that_ends_in_the_next_window_is_corrected_in_its_own(
    keys: VirtualKeys, clock: ManualClock
) -> None:
    key = await limited(keys, tokens=Rate(minute=100))
    facts = replace(CHAT, key=key, prompt_tokens=90)
    grant = await keys.admit(keys.get(key), facts)
    clock.advance(60)
    finish(keys, grant, facts, Usage(input=10), duration=60.0)
    await ask(keys, key, prompt_tokens=100)
    with pytest.raises(RateLimited):
        await ask(keys, key, prompt_tokens=1)


@pytest.mark.parametrize(
    ("limits", "tokens", "told", "waits"),
    [
        ({"requests": Rate(minute=0)}, 1, "0 requests per minute does not allow", False),
        ({"tokens": Rate(day=0)}, 1, "0 tokens per day does not allow", False),
        (
            {"tokens": Rate(day=50)},
            51,
            "does not allow this request. This request has about 51",
            False,
        ),
        (
            {"tokens": Rate(day=50)},
            30,
            "30 tokens, and of this API key's limit of 50 tokens per day 20 are",
            True,
        ),
        ({"requests": Rate(day=1)}, 1, "limit of 1 request per day is used up", True),
    ],
)
async def test_a_refusal_says_which_limit_and_what_is_left_and_waits_only_where_that_helps(
    keys: VirtualKeys, limits: dict[str, Rate], tokens: int, told: str, waits: bool
) -> None:
    key = (await keys.create("limited", limits=KeyLimits(**limits))).info.id
    if waits:
        await ask(keys, key, prompt_tokens=30)
    with pytest.raises(RateLimited, match=told) as refused:
        await ask(keys, key, prompt_tokens=tokens)
    assert (refused.value.retry_after is not None) is waits


async def test_an_invalid_record_is_skipped_and_logged(
    keys: VirtualKeys, state: SqliteState, clock: ManualClock
) -> None:
    made = await keys.create("alice")
    state.put("virtual_key", "key-broken", {"id": "key-broken", "admin": True})
    again = VirtualKeys(state, clock)
    with capture_logs() as logs:
        await again.start()
    assert [(entry["event"], entry["key"]) for entry in logs] == [("virtual_key.unreadable", "key-broken")]
    assert again.list() == (made.info,)
