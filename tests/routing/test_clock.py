"""The wall clock of windows: it never goes back, and tells of steps of the system clock."""

from __future__ import annotations

from routing.clock import SteadyWallClock
from tests.routing.clocks import ManualClock


def test_time_never_decreases_and_goes_on_while_the_system_clock_is_behind() -> None:
    clock = ManualClock()
    wall = SteadyWallClock(clock)
    began = wall()
    clock.set_wall(began - 86_400)
    assert wall() == began
    clock.advance(10)
    assert wall() == began + 10


def test_a_step_of_the_system_clock_is_told_once_and_a_pause_between_readings_is_none() -> None:
    clock = ManualClock()
    steps: list[float] = []
    wall = SteadyWallClock(clock, steps.append)
    clock.advance(100_000)
    wall()
    assert steps == []
    clock.set_wall(clock.wall() + 3600)
    wall()
    wall()
    clock.set_wall(clock.wall() - 3600)
    wall()
    assert steps == [3600, -3600]
