"""Pools of provider keys: round robin, rests, rejections; and secrets that are never shown."""

from __future__ import annotations

import json
import sys
from collections import Counter
from types import ModuleType
from typing import Any

import pytest

from catalog.errors import ConfigurationError
from catalog.model import Endpoint
from routing.outcomes import Result
from routing.upstreams.provider_keys import KeyPools, SecretResolver, needs_key
from tests.routing.clocks import ManualClock
from tests.routing.outcome_factory import outcome

SECRETS = ("sk-alpha", "sk-beta", "sk-gamma")
ENDPOINT = Endpoint(id="openai", base_url="https://api.test/v1", key_env=("OPENAI_API_KEYS",))
KEYLESS = Endpoint(id="lan", base_url="http://lan.test/v1")


class Pool:
    """The pools of two endpoints, one of which needs no key."""

    def __init__(self, *secrets: str) -> None:
        self.clock = ManualClock()
        self.environment = {"OPENAI_API_KEYS": ",".join(secrets)}
        self.pools = KeyPools([ENDPOINT, KEYLESS], SecretResolver(self.environment), self.clock)

    def take(self, model: str = "model") -> int | None:
        key = self.pools.take("openai", self.clock.monotonic(), model)
        return None if key is None else key.position

    def end(self, position: int, result: Result = Result.FAILED, **changes: object) -> None:
        self.pools.record(outcome(result, endpoint="openai", provider_key=position, **changes))

    def limit(self, position: int, retry_after: float | None = None) -> None:
        self.end(position, error="upstream_rate_limited", status=429, retry_after=retry_after)

    @property
    def blocked(self) -> dict[str, str]:
        """The code of the block, for the model that is called by default."""
        block = self.pools.block_of("openai", "model", self.clock.monotonic())
        return {} if block is None else {"openai": block.code}

    @property
    def blocked_for_all(self) -> bool:
        return "openai" in self.pools.blocked(self.clock.monotonic())

    def rest(self, position: int) -> float:
        return self.pools.statistics()[position].resting


def test_keys_are_taken_in_turn() -> None:
    pool = Pool(*SECRETS)
    assert [pool.take() for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_an_unhealthy_key_is_taken_less_often_but_not_never() -> None:
    pool = Pool("a", "b")
    for _ in range(20):
        pool.limit(0, retry_after=0.0)
    taken = Counter(pool.take() for _ in range(210))
    assert taken == {0: 10, 1: 200}


def test_secrets_come_from_several_variables_and_lists_without_doubles() -> None:
    endpoint = Endpoint(id="e", base_url="https://e.test", key_env=("ONE", "TWO", "UNSET"))
    resolve = SecretResolver({"ONE": " a , b,", "TWO": "b,c"})
    assert resolve(endpoint) == ("a", "b", "c")


def test_secrets_come_from_the_systems_keychain() -> None:
    endpoint = Endpoint(id="e", base_url="https://e.test", key_keyring="roundhouse/openai")
    resolve = SecretResolver({}, lambda service, user: f"{service}-{user}-secret")
    assert resolve(endpoint) == ("roundhouse-openai-secret",)


def test_a_keychain_entry_without_a_user_is_refused() -> None:
    endpoint = Endpoint(id="e", base_url="https://e.test", key_keyring="roundhouse")
    with pytest.raises(ConfigurationError, match="service/user"):
        SecretResolver({}, lambda _, __: None)(endpoint)


def test_without_the_keyring_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    endpoint = Endpoint(id="e", base_url="https://e.test", key_keyring="a/b")
    with pytest.raises(ConfigurationError, match=r"pip install .*\[keyring\]"):
        SecretResolver({})(endpoint)


def test_the_keyring_package_is_asked_for_service_and_user(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = ModuleType("keyring.errors")
    errors.__dict__["KeyringError"] = type("KeyringError", (Exception,), {})
    keyring = ModuleType("keyring")
    keyring.__dict__.update(
        errors=errors, get_password=lambda service, user: {("a", "b"): "found"}.get((service, user))
    )
    monkeypatch.setitem(sys.modules, "keyring", keyring)
    monkeypatch.setitem(sys.modules, "keyring.errors", errors)
    assert SecretResolver({})(Endpoint(id="e", base_url="https://e.test", key_keyring="a/b")) == ("found",)


def test_a_limited_key_rests_as_long_as_the_provider_says() -> None:
    pool = Pool("a", "b")
    pool.limit(0, retry_after=7.0)
    assert [pool.take() for _ in range(3)] == [1, 1, 1]
    pool.clock.advance(7.0)
    assert 0 in {pool.take() for _ in range(3)}


def test_without_retry_after_rests_double_from_one_second_to_five_minutes() -> None:
    pool = Pool("a")
    rests = []
    for _ in range(11):
        pool.limit(0)
        rests.append(pool.rest(0))
        pool.clock.advance(rests[-1])
    assert rests == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    pool.end(0, Result.SUCCESS)
    pool.limit(0)
    assert pool.rest(0) == 1


def test_many_limits_at_the_same_moment_count_once() -> None:
    pool = Pool("a")
    for _ in range(50):
        pool.limit(0)
    assert pool.rest(0) == 1
    assert pool.pools.statistics()[0].rate_limited == 50


@pytest.mark.parametrize(
    "changes",
    [{"status": 401}, {"error": "upstream_rejected_key"}, {"error": "upstream_rejected_key", "status": 403}],
)
def test_a_refused_key_is_out_until_a_call_proves_the_contrary_or_the_keys_are_read_again(
    changes: dict[str, Any],
) -> None:
    pool = Pool("a", "b")
    pool.end(0, **changes)
    pool.clock.advance(59)
    assert {pool.take() for _ in range(5)} == {1}
    pool.end(1, **changes)
    assert pool.take() is None
    assert pool.blocked == {"openai": "keys_rejected"}
    pool.environment["OPENAI_API_KEYS"] = "b,c"
    pool.pools.reload([ENDPOINT, KEYLESS])
    assert pool.blocked == {}
    assert [one.rejected for one in pool.pools.statistics()] == [1, 0]


def test_a_403_retires_no_key_and_rests_at_most_the_model_that_it_names() -> None:
    pool = Pool("a")
    for model in ("model", "other", "third"):
        pool.end(0, model=model, error="upstream_forbidden", status=403)
    assert pool.blocked == {}
    for model in ("model", "other", "third"):
        pool.end(0, model=model, error="upstream_forbidden", status=403, scope="model")
    assert not pool.blocked_for_all
    assert [pool.take(model) for model in ("model", "fourth")] == [None, 0]
    pool.clock.advance(60)
    assert pool.take() == 0, "the model is tried again after a rest"


@pytest.mark.parametrize("changes", [{"error": "insufficient_quota", "status": 429}, {"status": 402}])
def test_a_key_whose_account_is_used_up_rests_long_and_bounded_for_every_model(changes: dict[str, Any]) -> None:
    pool = Pool("a")
    rests = []
    for _ in range(6):
        pool.end(0, **changes)
        assert pool.blocked_for_all
        assert pool.blocked == {"openai": "keys_used_up"}
        rests.append(pool.rest(0))
        pool.clock.advance(rests[-1])
        assert pool.take() == 0
    assert rests == [300, 600, 1200, 2400, 3600, 3600]
    pool.end(0, Result.SUCCESS)
    assert pool.blocked == {}


def test_a_models_own_quota_that_is_used_up_rests_that_model_long_and_no_other() -> None:
    pool = Pool("a")
    pool.end(0, error="insufficient_quota", status=429, scope="model")
    assert not pool.blocked_for_all
    assert [pool.take("model"), pool.take("other")] == [None, 0]
    pool.clock.advance(299)
    assert pool.take("model") is None
    pool.clock.advance(1)
    assert pool.take("model") == 0


def test_a_key_that_is_used_up_is_so_after_a_restart() -> None:
    before = Pool("a")
    for _ in range(2):
        before.end(0, error="insufficient_quota", status=429)
        before.clock.advance(before.rest(0))
        before.take()
    before.end(0, error="insufficient_quota", status=429)
    after = Pool("a")
    after.clock.advance(300 + 600)
    after.pools.adopt(before.pools.export())
    assert after.blocked == {"openai": "keys_used_up"}
    assert after.rest(0) == pytest.approx(1200)


def test_a_refused_key_is_tried_by_one_call_after_a_rest_and_its_success_ends_the_refusal() -> None:
    pool = Pool("a")
    pool.end(0, **REJECTED)
    pool.clock.advance(60)
    assert pool.blocked == {}
    assert [pool.take() for _ in range(3)] == [0, None, None]
    assert pool.blocked == {"openai": "keys_rejected"}
    pool.end(0, Result.SUCCESS)
    assert pool.blocked == {}
    assert [pool.take() for _ in range(3)] == [0, 0, 0]
    pool.end(0, **REJECTED)
    assert pool.rest(0) == 60


def test_the_rests_of_a_refused_key_double_from_one_minute_to_five() -> None:
    pool = Pool("a")
    rests = []
    for _ in range(5):
        for _ in range(3):
            pool.end(0, **REJECTED)
        rests.append(pool.rest(0))
        pool.clock.advance(rests[-1])
        assert pool.take() == 0
    assert rests == [60, 120, 240, 300, 300]


@pytest.mark.parametrize(
    "changes", [{"result": Result.CANCELLED}, {"result": Result.FAILED, "error": "upstream_error", "status": 500}]
)
def test_a_trial_that_shows_nothing_lets_the_next_call_try(changes: dict[str, Any]) -> None:
    pool = Pool("a")
    pool.end(0, **REJECTED)
    pool.end(0, **changes)
    assert pool.take() is None, "a call that began before the refusal tries nothing"
    pool.end(0, Result.SUCCESS)
    assert pool.take() is None
    pool.clock.advance(60)
    assert pool.take() == 0
    pool.end(0, **changes)
    assert [pool.take(), pool.take()] == [0, None]
    pool.clock.advance(60)
    assert pool.take() == 0, "a trial whose end is never told must not keep the key for ever"


def test_a_key_that_all_models_were_refused_is_tried_by_one_call_of_any() -> None:
    pool = Pool("a")
    pool.end(0, scope="key", **REJECTED)
    pool.clock.advance(60)
    assert [pool.take("other"), pool.take("third")] == [0, None]
    pool.end(0, Result.SUCCESS, model="other")
    assert not pool.blocked_for_all
    assert pool.take("third") == 0


def test_a_rejection_and_its_rest_survive_a_restart() -> None:
    before = Pool("a")
    for _ in range(2):
        before.end(0, **REJECTED)
        before.clock.advance(before.rest(0))
        before.take()
    before.end(0, **REJECTED)
    after = Pool("a")
    after.clock.advance(60 + 120 + 40)
    after.pools.adopt(before.pools.export())
    assert after.blocked == {"openai": "keys_rejected"}
    assert after.rest(0) == pytest.approx(200)
    after.clock.advance(200.001)
    assert after.take() == 0
    after.end(0, **REJECTED)
    assert after.rest(0) == 300


def test_the_rest_in_a_block_is_the_time_that_is_left() -> None:
    pool = Pool("a")
    pool.end(0, **REJECTED)
    pool.clock.advance(18)
    block = pool.pools.block_of("openai", "model", pool.clock.monotonic())
    assert block is not None
    assert block.rest == 42
    assert "42 s" in block.reason


def test_an_endpoint_whose_keys_all_rest_is_blocked_until_the_first_is_back() -> None:
    pool = Pool("a", "b")
    pool.limit(0, retry_after=5.0)
    assert pool.blocked == {}
    pool.limit(1, retry_after=3.0)
    assert pool.blocked == {"openai": "keys_resting"}
    assert pool.take() is None
    pool.clock.advance(3.0)
    assert pool.blocked == {}
    assert pool.take() == 1


def test_an_endpoint_that_needs_a_key_and_has_none_is_blocked_and_one_that_needs_none_is_not() -> None:
    pool = Pool()
    assert pool.blocked == {"openai": "no_key"}
    assert needs_key(ENDPOINT)
    assert not needs_key(KEYLESS)
    assert pool.pools.take("lan", 0.0) is None


LIMITED: dict[str, Any] = {"error": "upstream_rate_limited", "status": 429, "retry_after": 60.0}
REJECTED: dict[str, Any] = {"error": "upstream_rejected_key", "status": 401}


@pytest.mark.parametrize("changes", [LIMITED, REJECTED], ids=["limited", "rejected"])
def test_what_one_model_is_refused_holds_for_that_model_alone(changes: dict[str, Any]) -> None:
    pool = Pool("a")
    pool.end(0, **changes)
    assert pool.take() is None
    assert pool.blocked
    assert not pool.blocked_for_all
    assert pool.take("other") == 0
    assert pool.pools.block_of("openai", "other", pool.clock.monotonic()) is None
    pool.end(0, Result.SUCCESS, model="other")
    pool.end(0, model="third", **changes)
    assert pool.take("other") == 0
    assert pool.take("third") is None


@pytest.mark.parametrize("changes", [LIMITED, REJECTED], ids=["limited", "rejected"])
def test_a_second_model_with_the_same_refusal_shows_that_it_is_the_keys(changes: dict[str, Any]) -> None:
    pool = Pool("a")
    pool.end(0, **changes)
    pool.end(0, model="other", **changes)
    assert pool.blocked_for_all
    assert pool.take("third") is None


@pytest.mark.parametrize("changes", [LIMITED, REJECTED], ids=["limited", "rejected"])
def test_the_provider_may_say_whether_a_refusal_is_of_the_model_or_of_the_key(changes: dict[str, Any]) -> None:
    pool = Pool("a")
    for model in ("model", "other"):
        pool.end(0, model=model, scope="model", **changes)
    assert pool.take("third") == 0
    pool.end(0, scope="key", **changes)
    assert pool.take("third") is None


def test_a_model_whose_keys_rest_is_back_when_the_first_is() -> None:
    pool = Pool("a", "b")
    pool.end(0, **LIMITED)
    assert pool.take() == 1
    pool.end(1, **{**LIMITED, "retry_after": 20.0})
    assert pool.blocked == {"openai": "keys_resting"}
    pool.clock.advance(20.0)
    assert pool.blocked == {}
    assert pool.take() == 1


def test_no_rest_is_longer_than_five_minutes_whatever_the_provider_or_the_store_says() -> None:
    pool = Pool("a")
    pool.end(0, **{**LIMITED, "retry_after": 86_400.0})
    assert pool.rest(0) == 300
    stored = pool.pools.export()
    (document,) = stored["openai"].values()  # type: ignore[union-attr]
    document["model"]["rests_until"] += 10**6
    after = Pool("a")
    after.pools.adopt(stored)
    assert after.rest(0) == 300
    assert after.take() is None
    assert after.take("other") == 0


def test_the_message_of_a_block_names_where_the_key_is_read_from() -> None:
    pool = Pool()
    block = pool.pools.block_of("openai", "model", 0.0)
    assert block is not None
    assert block.reason == "no key is set for the endpoint 'openai'; set OPENAI_API_KEYS"
    pool = Pool("a")
    pool.end(0, **REJECTED)
    block = pool.pools.block_of("openai", "model", 0.0)
    assert block is not None
    assert "OPENAI_API_KEYS" in block.reason


def test_other_failures_are_counted_and_neither_rest_nor_remove_a_key() -> None:
    pool = Pool("a")
    pool.end(0, error="upstream_error", status=500)
    pool.end(0, Result.CANCELLED)
    pool.end(0, Result.SUCCESS)
    pool.end(5, Result.SUCCESS)
    [key] = pool.pools.statistics()
    assert (key.failed, key.ok, key.resting, key.out, key.health) == (1, 1, 0, False, 1)


def test_a_rest_survives_a_restart_and_follows_its_key_to_another_position() -> None:
    before = Pool("a", "b")
    before.limit(0, retry_after=100.0)
    stored = before.pools.export()
    assert before.pools.export() == {}
    after = Pool("b", "a")
    after.clock.advance(40.0)
    after.pools.adopt(stored)
    assert [round(one.resting) for one in after.pools.statistics()] == [0, 60]


@pytest.mark.parametrize("document", [None, 3, {}, {"x": 1}])
def test_a_damaged_document_is_skipped(document: object) -> None:
    pool = Pool("a")
    pool.pools.adopt({"openai": document, "gone": document})
    assert pool.take() == 0


def test_a_secret_is_in_no_repr_block_statistic_or_document() -> None:
    pool = Pool(*SECRETS)
    key = pool.pools.take("openai", pool.clock.monotonic())
    assert key is not None
    assert key.secret == "sk-alpha"
    pool.limit(0, retry_after=9)
    pool.limit(1, retry_after=9)
    pool.limit(2, retry_after=9)
    shown = [
        repr(key),
        repr(vars(pool.pools)["_pools"]),
        repr(pool.pools.statistics()),
        repr(pool.pools.blocked(pool.clock.monotonic())),
        json.dumps(pool.pools.export()),
    ]
    assert not [text for text in shown for secret in SECRETS if secret in text]
