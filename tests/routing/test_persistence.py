"""Memory survives a restart and reaches other gateways through the state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from catalog.model import Endpoint
from routing.accounts.caps import Caps, SpendSettings
from routing.accounts.spend import Spend
from routing.accounts.virtual_keys import VirtualKeys
from routing.choosing.pins import Pins
from routing.outcomes import Result, Usage
from routing.persistence import Persistence, PersistenceSettings
from routing.state.protocol import OutcomeQuery
from routing.state.sqlite import SqliteState
from routing.upstreams.breaker import Breakers, BreakerSettings
from routing.upstreams.provider_keys import KeyPools, SecretResolver
from tests.routing.clocks import ManualClock
from tests.routing.outcome_factory import CHAT, outcome

CLOUD = Endpoint(id="cloud", base_url="http://cloud/v1", key_env=("KEYS",))


class Gateway:
    """The parts that persistence synchronises, on one file."""

    def __init__(self, path: Path) -> None:
        self.clock = ManualClock()
        self.state = SqliteState(path)
        self.breakers = Breakers(BreakerSettings(open_seconds=10), self.clock)
        self.provider_keys = KeyPools([CLOUD], SecretResolver({"KEYS": "one,two"}), self.clock)
        self.pins = Pins()
        self.keys = VirtualKeys(self.state, self.clock)
        self.spend = Spend(self.state, SpendSettings(caps=Caps(total=1)), self.clock)
        self.persistence = Persistence(
            self.state,
            PersistenceSettings(),
            self.clock,
            parts=[self.breakers, self.provider_keys],
            counted=[self.provider_keys],
            first_wins=[self.pins],
            spend=self.spend,
            keys=self.keys,
        )

    def use_key(self, result: Result, **fields: Any) -> int:
        """Make a call with the next key; returns its position."""
        key = self.provider_keys.take("cloud", self.clock.monotonic())
        assert key is not None
        self.provider_keys.record(outcome(result, endpoint="cloud", provider_key=key.position, **fields))
        return key.position

    def break_model(self) -> None:
        for _ in range(5):
            self.breakers.record(outcome(Result.FAILED))

    @property
    def blocked(self) -> bool:
        return bool(self.breakers.blocked(CHAT, self.clock.monotonic()))


async def test_what_was_learned_is_there_after_a_restart(tmp_path: Path) -> None:
    before = Gateway(tmp_path / "s.sqlite")
    await before.persistence.start()
    made = await before.keys.create("alice")
    before.break_model()
    async with before.spend.reserve(key="alice", model="m", endpoint="e", amount=0.5) as reservation:
        reservation.settle(0.25, Usage())
    await before.persistence.stop()

    after = Gateway(tmp_path / "s.sqlite")
    await after.persistence.start()
    assert after.blocked
    assert after.keys.authenticate(made.secret) is not None
    assert after.spend.headroom("alice") == 0.75
    await after.persistence.stop()


async def test_the_statistics_of_provider_keys_and_a_refused_key_survive_a_restart_until_a_reload(
    tmp_path: Path,
) -> None:
    before = Gateway(tmp_path / "s.sqlite")
    await before.persistence.start()
    before.use_key(Result.SUCCESS)
    before.use_key(Result.FAILED, error="upstream_rejected_key", scope="key")
    before.use_key(Result.SUCCESS)
    await before.persistence.stop()

    after = Gateway(tmp_path / "s.sqlite")
    await after.persistence.start()
    first, second = after.provider_keys.statistics()
    assert (first.used, first.ok, first.rejected, first.out) == (2, 2, 0, False)
    assert (second.used, second.ok, second.rejected, second.out) == (1, 0, 1, True)
    assert after.use_key(Result.SUCCESS) == 0
    after.provider_keys.reload([CLOUD])
    await after.persistence.exchange()
    assert not any(key.out for key in after.provider_keys.statistics())
    await after.persistence.stop()

    again = Gateway(tmp_path / "s.sqlite")
    await again.persistence.start()
    first, second = again.provider_keys.statistics()
    assert (first.used, second.used, second.out) == (3, 1, False)
    await again.persistence.stop()


async def test_the_statistics_of_provider_keys_add_up_over_gateways(tmp_path: Path) -> None:
    one, other = Gateway(tmp_path / "s.sqlite"), Gateway(tmp_path / "s.sqlite")
    for gateway in (one, other):
        await gateway.persistence.start()
    for gateway in (one, other, one):
        gateway.use_key(Result.SUCCESS)
        await gateway.persistence.exchange()
    for gateway in (one, other):
        await gateway.persistence.exchange()
        assert sum(key.ok for key in gateway.provider_keys.statistics()) == 3
        await gateway.persistence.stop()


async def test_of_two_pins_made_at_the_same_time_the_first_stored_holds_until_an_operator_changes_it(
    tmp_path: Path,
) -> None:
    one, other = Gateway(tmp_path / "s.sqlite"), Gateway(tmp_path / "s.sqlite")
    for gateway in (one, other):
        await gateway.persistence.start()
    one.pins.pin("auto", "a")
    other.pins.pin("auto", "b")
    for gateway in (one, other, one):
        await gateway.persistence.exchange()
        assert gateway.pins.current == {"auto": "a"}
    other.pins.pin("auto", "b", change=True)
    for gateway in (other, one):
        await gateway.persistence.exchange()
        assert gateway.pins.current == {"auto": "b"}
    for gateway in (one, other):
        await gateway.persistence.stop()


async def test_a_pin_that_an_operator_removes_is_removed_everywhere_and_may_be_made_anew(tmp_path: Path) -> None:
    one, other = Gateway(tmp_path / "s.sqlite"), Gateway(tmp_path / "s.sqlite")
    for gateway in (one, other):
        await gateway.persistence.start()
    one.pins.pin("auto", "a")
    for gateway in (one, other):
        await gateway.persistence.exchange()
    other.pins.unpin("auto")
    for gateway in (other, one):
        await gateway.persistence.exchange()
        assert not gateway.pins.current
    one.pins.pin("auto", "b")
    for gateway in (one, other):
        await gateway.persistence.exchange()
        assert gateway.pins.current == {"auto": "b"}
        await gateway.persistence.stop()


async def test_gateways_learn_from_each_other(tmp_path: Path) -> None:
    one, other = Gateway(tmp_path / "s.sqlite"), Gateway(tmp_path / "s.sqlite")
    await one.persistence.start()
    await other.persistence.start()
    one.break_model()
    async with one.spend.reserve(key="alice", model="m", endpoint="e", amount=0.5) as reservation:
        reservation.settle(0.25, Usage())
    await one.persistence.exchange()
    await other.persistence.exchange()
    assert other.blocked
    assert other.spend.headroom("alice") == 0.75
    await one.persistence.stop()
    await other.persistence.stop()


async def test_keys_and_spend_are_put_again_when_the_store_was_damaged_and_begun_afresh(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    gateway = Gateway(path)
    await gateway.persistence.start()
    made = await gateway.keys.create("alice")
    async with gateway.spend.reserve(key="alice", model="m", endpoint="e", amount=0.5) as reservation:
        reservation.settle(0.25, Usage())
    with capture_logs():
        gateway.state._writer._set_aside(OSError("torn"))
    await gateway.persistence.exchange()
    assert gateway.spend.headroom("alice") == 0.75
    await gateway.persistence.stop()

    after = Gateway(path)
    await after.persistence.start()
    assert after.keys.authenticate(made.secret) is not None
    assert after.spend.headroom("alice") == 0.75
    await after.persistence.stop()


async def test_old_outcomes_are_forgotten(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "s.sqlite")
    await gateway.persistence.start()
    gateway.state.add_outcome(outcome(at=gateway.clock.wall()))
    gateway.clock.advance(31 * 86_400)
    gateway.state.add_outcome(outcome(at=gateway.clock.wall()))
    await gateway.persistence.exchange()
    assert len(await gateway.state.outcomes(OutcomeQuery())) == 1
    await gateway.persistence.stop()


async def test_a_store_that_is_away_is_logged_once_and_ends_nothing(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "s.sqlite")
    await gateway.persistence.start()
    await gateway.state.close()
    with capture_logs() as logs:
        await gateway.persistence.exchange()
        await gateway.persistence.exchange()
    assert [entry["event"] for entry in logs] == ["state.not_exchanged"]
