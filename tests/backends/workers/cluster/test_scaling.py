"""How many replicas a model has: pure decisions over their load."""

from __future__ import annotations

from backends.workers.cluster.scaling import Bounds, Load, Scale, scale

NOW = 1000.0


def load(
    replica: str = "r", *, busy: int = 0, queued: int = 0, serving: bool = True, idle: float | None = None,
    waits: float | None = None,
) -> Load:  # fmt: skip
    """A load; ``idle`` and ``waits`` are seconds until now."""
    since = None if idle is None else NOW - idle
    return Load(replica, serving, 4, busy, queued, since, None if waits is None else NOW - waits)


def bounds(least: int = 0, most: int = 3, *, wait: float = 2.0, keep: float | None = 60.0) -> Bounds:
    return Bounds(least, most, wait, keep)


def test_the_least_number_of_replicas_is_started_without_requests() -> None:
    assert scale([], bounds(least=2), NOW) == Scale(start=2)
    assert scale([load()], bounds(least=2), NOW) == Scale(start=1)


def test_one_more_is_started_once_requests_have_waited_on_every_replica() -> None:
    full = load("a", busy=4, queued=3, waits=2.5)
    assert scale([full], bounds(), NOW) == Scale(start=1)
    assert scale([full, load("b", busy=1)], bounds(), NOW) == Scale()
    assert scale([full, load("b", busy=4, queued=1, waits=0.5)], bounds(), NOW) == Scale()


def test_no_other_is_started_while_one_starts_or_beyond_the_most() -> None:
    full = load("a", busy=4, queued=3, waits=9)
    assert scale([full, load("b", serving=False)], bounds(), NOW) == Scale()
    assert scale([full], bounds(most=1), NOW) == Scale()


def test_a_slow_first_token_of_full_replicas_starts_one_more() -> None:
    full = load("a", busy=4)
    assert scale([full], bounds(), NOW, first_token=3.0) == Scale(start=1)
    assert scale([full], bounds(), NOW, first_token=1.0) == Scale()
    assert scale([load("a", busy=1)], bounds(), NOW, first_token=3.0) == Scale()


def test_the_replica_that_was_idle_the_longest_is_stopped_one_at_a_time() -> None:
    idle = [load("a", idle=70), load("b", idle=90), load("c", idle=10)]
    assert scale(idle, bounds(), NOW) == Scale(stop=("b",))
    assert scale(idle, bounds(keep=None), NOW) == Scale()


def test_the_least_number_stays_however_long_it_is_idle() -> None:
    assert scale([load("a", idle=900)], bounds(least=1), NOW) == Scale()
    assert scale([load("a", idle=900)], bounds(least=0), NOW) == Scale(stop=("a",))
