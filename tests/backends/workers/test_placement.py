"""Placement of models on devices, and evictions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backends.workers.placement import Decision, DeviceBudget, Evict, Place, Tenant, TooLarge, Wait, decide


def tenant(
    model: str, memory: int, *, device: str = "cpu", idle: bool = True, leaving: bool = False, used: float = 0
) -> Tenant:
    return Tenant(model, device, memory, idle, leaving, used)


def on_cpu(need: int, *tenants: Tenant, budget: int = 100) -> Decision:
    return decide(need, allowed=("cpu",), budgets=(DeviceBudget("cpu", budget),), tenants=tenants)


def test_it_goes_where_there_is_room() -> None:
    assert on_cpu(100) == Place("cpu")


def test_accelerators_come_first_and_the_cpu_takes_what_does_not_fit_there() -> None:
    budgets = (DeviceBudget("cuda:0", 10), DeviceBudget("cpu", 100))
    assert decide(10, allowed=("cuda:0", "cpu"), budgets=budgets, tenants=()) == Place("cuda:0")
    assert decide(11, allowed=("cuda:0", "cpu"), budgets=budgets, tenants=()) == Place("cpu")


def test_the_least_recently_used_leaves_first_and_no_more_than_needed() -> None:
    old, new = tenant("old", 40, used=1), tenant("new", 40, used=2)
    assert on_cpu(50, new, old) == Evict("cpu", ("old",))
    assert on_cpu(90, new, old) == Evict("cpu", ("old", "new"))


def test_a_busy_worker_is_waited_for_and_never_evicted() -> None:
    busy, idle = tenant("busy", 60, idle=False), tenant("idle", 30)
    assert on_cpu(50, busy, idle) == Wait("cpu", ("busy",))
    assert on_cpu(40, busy, idle) == Evict("cpu", ("idle",))


def test_memory_that_is_being_freed_is_waited_for_and_nobody_else_evicted() -> None:
    assert on_cpu(50, tenant("leaving", 60, leaving=True), tenant("idle", 40)) == Wait("cpu", ())


def test_what_no_device_can_hold_is_refused_with_the_figures() -> None:
    assert on_cpu(101) == TooLarge(101, 100)
    assert decide(1, allowed=(), budgets=(), tenants=()) == TooLarge(1, 0)


def test_of_two_devices_the_one_that_loses_less() -> None:
    budgets = (DeviceBudget("cuda:0", 100), DeviceBudget("cuda:1", 100))
    tenants = (tenant("large", 90, device="cuda:0"), tenant("small", 60, device="cuda:1"))
    assert decide(50, allowed=("cuda:0", "cuda:1"), budgets=budgets, tenants=tenants) == Evict(
        "cuda:1", ("small",)
    )


tenants = st.lists(
    st.builds(
        Tenant,
        model=st.uuids().map(str),
        device=st.sampled_from(["cpu", "cuda:0"]),
        memory=st.integers(0, 100),
        idle=st.booleans(),
        leaving=st.booleans(),
        last_used=st.floats(0, 100),
    ),
    max_size=8,
).map(tuple)


@given(need=st.integers(0, 250), tenants=tenants)
def test_a_decision_always_fits_and_evicts_only_idle_workers(need: int, tenants: tuple[Tenant, ...]) -> None:
    budgets = (DeviceBudget("cpu", 200), DeviceBudget("cuda:0", 100))
    by_name = {t.model: t for t in tenants}
    decision = decide(need, allowed=("cuda:0", "cpu"), budgets=budgets, tenants=tenants)
    match decision:
        case Place(device):
            used = sum(t.memory for t in tenants if t.device == device)
            assert used + need <= {"cpu": 200, "cuda:0": 100}[device]
        case Evict(device, models):
            victims = [by_name[name] for name in models]
            assert all(v.idle and not v.leaving and v.device == device for v in victims)
            staying = sum(t.memory for t in tenants if t.device == device and t not in victims and not t.leaving)
            assert staying + need <= {"cpu": 200, "cuda:0": 100}[device]
        case Wait(_, models):
            assert all(not by_name[name].idle for name in models)
        case TooLarge():
            assert need > 200
