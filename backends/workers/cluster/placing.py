"""Decides on which node a replica starts, and which idle replicas make room for it. Pure.

Ray grants resources and starts processes, and knows neither which replicas are idle nor which model they serve. So
a node is chosen here, by the same rules as a device of one machine (:mod:`backends.workers.placement`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Amounts = Mapping[str, float]
"""Amounts of resources by Ray's names: ``memory`` in bytes, ``CPU``, ``GPU``, and the cluster's own."""


@dataclass(frozen=True, slots=True)
class Node:
    """A living machine of the cluster and what it has in total."""

    id: str
    name: str
    address: str
    total: Amounts
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReplicaRequest:
    """The needs of a replica of ``model``."""

    model: str
    needs: Amounts
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Holding:
    """A replica that holds resources of a node. An ``idle`` one may be evicted; a ``leaving`` one is stopping."""

    replica: str
    model: str
    node: str
    amounts: Amounts
    idle: bool
    leaving: bool
    last_used: float


@dataclass(frozen=True, slots=True)
class Fits:
    """The replica fits on this node now."""

    node: str


@dataclass(frozen=True, slots=True)
class Displaces:
    """The replica fits on this node once ``replicas`` (least recently used first) have stopped."""

    node: str
    replicas: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WaitsFor:
    """The replica fits on this node once leaving ones have stopped, or busy ones, ``replicas``, are idle."""

    node: str
    replicas: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FitsNowhere:
    """No node has what the replica needs, even when it is empty; ``lacking`` names what the best node lacks."""

    lacking: tuple[str, ...]


def find_room(
    request: ReplicaRequest, nodes: Sequence[Node], holdings: Sequence[Holding]
) -> Fits | Displaces | WaitsFor | FitsNowhere:
    """Decide where ``request`` starts.

    Nodes without a replica of the same model come first, then those with the most free memory, so that replicas
    spread. A node that needs no eviction is preferred to one that does, and among those the one where the fewest
    bytes are evicted. An idle replica of the same model is never evicted for it, a busy one of any model neither.
    """
    able = [node for node in nodes if not _lacks(node, request)]
    if not able:
        best = min((_lacks(node, request) for node in nodes), key=len, default=("a node",))
        return FitsNowhere(best)
    held = {node.id: [each for each in holdings if each.node == node.id] for node in able}
    able.sort(key=lambda node: _preference(request, node, held[node.id]))
    displacing: list[tuple[float, Displaces]] = []
    waiting: WaitsFor | None = None
    for node in able:
        here = held[node.id]
        if _fits(request.needs, node, here):
            return Fits(node.id)
        staying = [each for each in here if not each.leaving]
        if _fits(request.needs, node, staying):
            waiting = waiting or WaitsFor(node.id, ())
            continue
        victims = _victims(request, node, staying)
        if victims is not None:
            cost = sum(each.amounts.get("memory", 0.0) for each in victims)
            displacing.append((cost, Displaces(node.id, tuple(each.replica for each in victims))))
    if waiting is not None:
        return waiting
    if displacing:
        return min(displacing, key=lambda each: each[0])[1]
    node = able[0]
    busy = [each for each in held[node.id] if not each.leaving and not each.idle and each.model != request.model]
    return WaitsFor(node.id, tuple(each.replica for each in sorted(busy, key=lambda each: each.last_used)))


def in_use(holdings: Iterable[Holding], node: str) -> dict[str, float]:
    """Return the amounts that replicas hold of a node."""
    used: dict[str, float] = {}
    for each in holdings:
        if each.node == node:
            for name, amount in each.amounts.items():
                used[name] = used.get(name, 0.0) + amount
    return used


def _lacks(node: Node, request: ReplicaRequest) -> tuple[str, ...]:
    short = [name for name, amount in request.needs.items() if amount > node.total.get(name, 0.0)]
    other = [f"label {name}={value}" for name, value in request.labels.items() if node.labels.get(name) != value]
    return (*short, *other)


def _preference(request: ReplicaRequest, node: Node, here: Sequence[Holding]) -> tuple[int, float]:
    same = sum(each.model == request.model for each in here)
    free = node.total.get("memory", 0.0) - sum(each.amounts.get("memory", 0.0) for each in here)
    return same, -free


def _fits(needs: Amounts, node: Node, here: Sequence[Holding]) -> bool:
    used = in_use(here, node.id)
    return all(amount <= node.total.get(name, 0.0) - used.get(name, 0.0) + 1e-9 for name, amount in needs.items())


def _victims(request: ReplicaRequest, node: Node, staying: Sequence[Holding]) -> list[Holding] | None:
    """List the least recently used idle replicas whose end makes room, or None if all of them are too few."""
    idle = sorted(
        (each for each in staying if each.idle and each.model != request.model), key=lambda each: each.last_used
    )
    for count in range(1, len(idle) + 1):
        gone = {each.replica for each in idle[:count]}
        if _fits(request.needs, node, [each for each in staying if each.replica not in gone]):
            return idle[:count]
    return None
