"""Roundhouse's own API keys: shown once, stored as digests, limited, revoked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from catalog.errors import InvalidRequest, NotFound, RateLimited
from routing.accounts.spend import Caps
from routing.accounts.virtual_keys import KeyLimits, Rate, VirtualKeys
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


async def limited(keys: VirtualKeys, requests: Rate | None = None, tokens: Rate | None = None) -> str:
    limits = KeyLimits(requests=requests or Rate(), tokens=tokens or Rate())
    return (await keys.create("limited", limits=limits)).info.id


def ask(keys: VirtualKeys, key: str, prompt_tokens: int = 10) -> None:
    keys.check_and_count(keys.get(key), replace(CHAT, key=key, prompt_tokens=prompt_tokens))


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
    clock.set_wall(clock.wall() - 3600)
    assert keys.authenticate(made.secret) is None


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
    ask(keys, key)
    ask(keys, key)
    with pytest.raises(RateLimited, match="2 requests per minute") as refused:
        ask(keys, key)
    assert refused.value.retry_after is not None
    clock.advance(refused.value.retry_after)
    ask(keys, key)
    with pytest.raises(RateLimited, match="3 requests per day") as refused:
        ask(keys, key)
    assert refused.value.retry_after is not None
    clock.advance(refused.value.retry_after)
    ask(keys, key)


async def test_a_refused_request_is_counted_nowhere(keys: VirtualKeys) -> None:
    key = await limited(keys, requests=Rate(day=1), tokens=Rate(day=5))
    with pytest.raises(RateLimited):
        ask(keys, key, prompt_tokens=6)
    ask(keys, key, prompt_tokens=5)


async def test_tokens_count_the_estimate_at_the_gate_and_the_usage_afterwards(keys: VirtualKeys) -> None:
    key = await limited(keys, tokens=Rate(day=100))
    facts = replace(CHAT, key=key, prompt_tokens=30)
    keys.check_and_count(keys.get(key), facts)
    keys.record(outcome(Result.FAILED, facts=facts, usage=Usage(input=5)))
    keys.record(outcome(Result.SUCCESS, facts=facts, attempt=2, usage=Usage(input=20, output=35)))
    with pytest.raises(RateLimited):
        ask(keys, key, prompt_tokens=41)
    ask(keys, key, prompt_tokens=40)
    with pytest.raises(RateLimited):
        ask(keys, key, prompt_tokens=0)


async def test_a_prompt_above_the_whole_limit_gets_no_retry_after(keys: VirtualKeys) -> None:
    key = await limited(keys, tokens=Rate(minute=100))
    with pytest.raises(RateLimited) as refused:
        ask(keys, key, prompt_tokens=101)
    assert refused.value.retry_after is None


async def test_gateways_exchange_what_they_counted(
    keys: VirtualKeys, state: SqliteState, clock: ManualClock
) -> None:
    key = await limited(keys, requests=Rate(day=4))
    elsewhere = VirtualKeys(state, clock)
    await elsewhere.start()
    for one in (keys, elsewhere):
        ask(one, key)
        ask(one, key)
    for one in (keys, elsewhere, keys):
        await one.sync()
    for one in (keys, elsewhere):
        with pytest.raises(RateLimited):
            ask(one, key)
    again = VirtualKeys(state, clock)
    await again.start()
    with pytest.raises(RateLimited):
        ask(again, key)


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
