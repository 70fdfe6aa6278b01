"""The replicas and nodes of a cluster as the manager counts them, and the places that it gives out."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Sequence
from typing import Protocol

from backends.workers.cluster.estimates import Estimates
from backends.workers.cluster.members import Member
from backends.workers.cluster.placing import (
    Displaces,
    Fits,
    FitsNowhere,
    Holding,
    Node,
    ReplicaRequest,
    find_room,
    in_use,
)
from backends.workers.cluster.specs import ReplicaSpec
from backends.workers.pool import DeviceView, NodeView, PoolSnapshot, of_cluster
from backends.workers.settings import WorkerSettings
from catalog.errors import ModelTemporarilyUnavailable, ModelTooLarge
from catalog.model import Model

AVOID = 30.0
"""Seconds for which a node that lost a replica is chosen only if there is no other: Ray takes up to 25 to see its
death, and would wait for it."""
_LOOKS = 1.0
"""Seconds after which a wait for room looks again, as nodes come and go."""


class Leave(Protocol):
    """Begins to drain a replica and to end it; the task ends when it is gone."""

    def __call__(self, member: Member) -> asyncio.Task[None]: ...


class Roster:
    """Keeps count of replicas and their resources. ``moved`` is to be set when a replica or a node has changed."""

    def __init__(self, settings: WorkerSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._suspects: dict[str, float] = {}
        self._turn = asyncio.Lock()
        self.estimates = Estimates(settings)
        self.members: dict[str, Member] = {}
        self.nodes: tuple[Node, ...] = ()
        self.moved = asyncio.Event()

    def of(self, model_id: str) -> list[Member]:
        """Return the replicas of a model, those that start or leave included."""
        return [member for member in self.members.values() if member.spec.model.id == model_id]

    def suspect(self, node: str) -> None:
        """Note that a node lost a replica, or did not start one."""
        self._suspects[node] = self._clock() + AVOID

    def snapshot(self) -> PoolSnapshot:
        """Describe all replicas and nodes; no I/O."""
        holdings = self._holdings()
        nodes, devices = [], []
        for node in self.nodes:
            used = in_use(holdings, node.id)
            nodes.append(NodeView(node.id, node.name, node.address, node.total, used, node.labels))
            total = int(node.total.get("memory", 0))
            measured = sum(member.memory for member in self.members.values() if member.spec.node == node.id)
            name = f"memory of {node.name}"
            devices.append(DeviceView(f"{node.name}/cpu", name, total, total, measured, node.name))
        names = {node.id: node.name for node in self.nodes}
        views = (member.view(names.get(member.spec.node, member.spec.node)) for member in self.members.values())
        return of_cluster(views, tuple(devices), tuple(nodes))

    async def place(self, model: Model, leave: Leave) -> Member:
        """Reserve a node's resources for a new replica, evicting idle ones. One is placed at a time.

        Busy replicas are drained once the newcomer has waited for ``drain_delay`` seconds. Raises ModelTooLarge,
        and ModelTemporarilyUnavailable if no room came in time or there is no node.
        """
        async with self._turn:
            since = self._clock()
            await asyncio.to_thread(self.estimates.look, model)
            while True:
                request = self.estimates.request(model, self.nodes)
                match find_room(request, self._candidates(request), self._holdings()):
                    case Fits(node):
                        return self._reserve(model, request, node)
                    case FitsNowhere(lacking):
                        raise self._too_large(request, lacking)
                    case Displaces(_, replicas):
                        await asyncio.wait([leave(self.members[replica]) for replica in replicas])
                    case waits:
                        await self._wait_for_room(model, waits.replicas, since, leave)

    def _too_large(
        self, request: ReplicaRequest, lacking: Sequence[str]
    ) -> ModelTemporarilyUnavailable | ModelTooLarge:
        if not self.nodes:
            return ModelTemporarilyUnavailable("The cluster has no node at present.", retry_after=5)
        return ModelTooLarge(
            f"'{request.model}' needs {_described(request)}, which no node of the cluster has: too little "
            f"{', '.join(lacking)}."
        )

    def _candidates(self, request: ReplicaRequest) -> Sequence[Node]:
        """Return the nodes, without those that lost a replica a moment ago unless only they are able."""
        now = self._clock()
        trusted = [node for node in self.nodes if self._suspects.get(node.id, 0.0) <= now]
        able = trusted and not isinstance(find_room(request, trusted, ()), FitsNowhere)
        return trusted if able else self.nodes

    def _reserve(self, model: Model, request: ReplicaRequest, node_id: str) -> Member:
        node = next(each for each in self.nodes if each.id == node_id)
        used = in_use(self._holdings(), node_id).get("memory", 0.0)
        spec = ReplicaSpec(
            id=f"{model.id}-{secrets.token_hex(4)}",
            node=node_id,
            model=model,
            host=node.address,
            key=secrets.token_urlsafe(32),
            memory=max(1, int(node.total.get("memory", 0.0) - used)),
            gpus=request.needs.get("GPU", 0.0),
            amounts=dict(request.needs),
            settings=self._settings,
        )
        member = self.members[spec.id] = Member(spec, self._clock())
        return member

    async def _wait_for_room(self, model: Model, busy: Sequence[str], since: float, leave: Leave) -> None:
        now = self._clock()
        pause = since + self._settings.placement_timeout - now
        if pause <= 0:
            raise ModelTemporarilyUnavailable(
                f"No node had room for '{model.id}' in {now - since:.0f} s: other models are busy.", retry_after=10
            )
        left = since + self._settings.drain_delay - now
        drainable = [each for each in busy if self.members[each].serving]
        if drainable and left <= 0:  # it leaves while the next look waits
            leave(self.members[drainable[0]])
        if drainable:
            pause = min(pause, left)
        self.moved.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(pause, _LOOKS)):
                await self.moved.wait()

    def _holdings(self) -> list[Holding]:
        return [member.holding() for member in self.members.values()]


def _described(request: ReplicaRequest) -> str:
    parts = [
        f"{amount / 2**20:.0f} MiB of memory" if name == "memory" else f"{amount:g} {name}"
        for name, amount in request.needs.items()
    ]
    return ", ".join([*parts, *(f"{name}={value}" for name, value in request.labels.items())])
