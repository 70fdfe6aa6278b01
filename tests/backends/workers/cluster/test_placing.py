"""Where a replica starts: pure decisions over nodes and what replicas hold."""

from __future__ import annotations

from backends.workers.cluster.placing import (
    Displaces,
    Fits,
    FitsNowhere,
    Holding,
    ReplicaRequest,
    WaitsFor,
    find_room,
)
from tests.backends.workers.cluster.conftest import node
from tests.backends.workers.conftest import MIB


def request(
    model: str = "m", *, mib: int = 400, labels: dict[str, str] | None = None, **needs: float
) -> ReplicaRequest:
    return ReplicaRequest(model, {"memory": float(mib * MIB), **needs}, labels or {})


def holding(
    replica: str, place: str, *, mib: int = 400, idle: bool = True, leaving: bool = False, used: float = 0.0,
    model: str | None = None, **amounts: float,
) -> Holding:  # fmt: skip
    held = {"memory": float(mib * MIB), **amounts}
    return Holding(replica, model or replica, place, held, idle, leaving, used)


def test_the_node_with_the_most_free_memory_is_taken() -> None:
    nodes = [node("n1", mib=1000), node("n2", mib=2000)]
    assert find_room(request(), nodes, []) == Fits("n2")
    assert find_room(request(), nodes, [holding("a", "n2", mib=1500)]) == Fits("n1")


def test_replicas_of_a_model_go_to_different_nodes_while_there_are_enough() -> None:
    nodes = [node("n1", mib=1000), node("n2", mib=4000)]
    one = holding("m-1", "n2", model="m")
    assert find_room(request(), nodes, [one]) == Fits("n1")
    assert find_room(request(), nodes[1:], [one]) == Fits("n2")


def test_every_resource_counts_also_those_of_the_clusters_own() -> None:
    nodes = [node("n1", GPU=1.0), node("n2", GPU=2.0, fast=1.0)]
    assert find_room(request(GPU=2.0), nodes, []) == Fits("n2")
    assert find_room(request(fast=1.0), nodes, []) == Fits("n2")
    assert find_room(request(GPU=1.0), nodes, [holding("a", "n2", GPU=2.0)]) == Fits("n1")


def test_a_model_goes_only_to_nodes_with_its_labels() -> None:
    nodes = [node("n1", mib=4000), node("n2", labels={"zone": "a"})]
    assert find_room(request(labels={"zone": "a"}), nodes, []) == Fits("n2")
    assert find_room(request(labels={"zone": "b"}), nodes, []) == FitsNowhere(("label zone=b",))


def test_what_no_node_has_even_when_it_is_empty_is_refused_with_what_it_lacks() -> None:
    nodes = [node("n1"), node("n2")]
    assert find_room(request(mib=1500), nodes, []) == FitsNowhere(("memory",))
    assert find_room(request(GPU=1.0), nodes, []) == FitsNowhere(("GPU",))
    assert isinstance(find_room(request(), [], []), FitsNowhere)


def test_idle_replicas_make_room_least_recently_used_first_and_as_few_as_enough() -> None:
    held = [holding("a", "n1", used=3), holding("b", "n1", used=1, mib=300), holding("c", "n1", used=2, mib=300)]
    assert find_room(request(mib=300), [node("n1")], held) == Displaces("n1", ("b",))
    assert find_room(request(mib=600), [node("n1")], held) == Displaces("n1", ("b", "c"))


def test_the_node_where_the_fewest_bytes_are_evicted_makes_room() -> None:
    held = [holding("a", "n1", mib=900), holding("b", "n2", mib=700)]
    assert find_room(request(), [node("n1"), node("n2")], held) == Displaces("n2", ("b",))


def test_a_busy_replica_is_waited_for_and_never_evicted() -> None:
    held = [holding("a", "n1", mib=900, idle=False, used=2)]
    assert find_room(request(), [node("n1")], held) == WaitsFor("n1", ("a",))


def test_replicas_that_leave_are_waited_for_before_any_other_is_evicted() -> None:
    held = [holding("a", "n1", mib=900, leaving=True), holding("b", "n2", mib=900)]
    assert find_room(request(), [node("n1"), node("n2")], held) == WaitsFor("n1", ())


def test_an_idle_replica_of_the_same_model_is_not_evicted_for_another_one() -> None:
    held = [holding("m-1", "n1", mib=900, model="m")]
    assert find_room(request(), [node("n1")], held) == WaitsFor("n1", ())
