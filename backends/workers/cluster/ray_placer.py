"""Starts replicas through Ray, which grants them resources of a node."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from backends.workers.cluster.placing import Node
from backends.workers.cluster.specs import ChannelAddress, ReplicaSpec
from catalog.errors import Unavailable, WorkerFailed

_REPLICA = "replica:"
_STOP_GRACE = 5.0
_KNOWN = ("memory", "CPU", "GPU")


class RayPlacer:
    """Implements :class:`backends.workers.cluster.manager.Placer`."""

    def __init__(self, namespace: str, program: str, actor: type) -> None:
        """``actor`` is the class of the actor that holds a replica, with ``program`` as its process."""
        self._namespace = namespace
        self._program = program
        self._actor = actor
        self._actors: dict[str, Any] = {}

    async def nodes(self) -> Sequence[Node]:
        rows = await asyncio.to_thread(ray.nodes)
        return [
            Node(
                id=row["NodeID"],
                name=row.get("NodeName") or row["NodeManagerHostname"],
                address=row["NodeManagerAddress"],
                total=dict(row["Resources"]),
                labels=dict(row.get("Labels") or {}),
            )
            for row in rows
            if row["Alive"]
        ]

    async def existing(self) -> Sequence[tuple[ReplicaSpec, ChannelAddress]]:
        listed = await asyncio.to_thread(ray.util.list_named_actors, True)
        names = [
            each["name"]
            for each in listed
            if each["namespace"] == self._namespace and each["name"].startswith(_REPLICA)
        ]
        found = await asyncio.gather(*(self._ask(name) for name in names))
        return [each for each in found if each is not None]

    async def _ask(self, name: str) -> tuple[ReplicaSpec, ChannelAddress] | None:
        """Ask a replica's actor what it holds; None if it does not answer. One without a program is ended."""
        try:
            actor = await asyncio.to_thread(ray.get_actor, name, self._namespace)
            async with asyncio.timeout(_STOP_GRACE):
                told = await actor.told.remote()
        except (ValueError, ray.exceptions.RayError, TimeoutError):
            return None
        if told is None:
            await asyncio.to_thread(_kill, actor)
            return None
        spec = ReplicaSpec.model_validate_json(told[0])
        self._actors[spec.id] = actor
        return spec, ChannelAddress(told[1], told[2])

    async def start(self, spec: ReplicaSpec) -> ChannelAddress:
        amounts = spec.amounts
        actor = (
            ray.remote(self._actor)
            .options(
                name=_REPLICA + spec.id,
                namespace=self._namespace,
                lifetime="detached",
                num_cpus=amounts.get("CPU", 0),
                num_gpus=amounts.get("GPU", 0),
                memory=int(amounts.get("memory", 0)),
                resources={name: amount for name, amount in amounts.items() if name not in _KNOWN},
                scheduling_strategy=NodeAffinitySchedulingStrategy(spec.node, soft=False),
                max_restarts=0,
                max_concurrency=4,
            )
            .remote(self._program)
        )
        self._actors[spec.id] = actor
        try:
            host, port = await actor.start.remote(spec.model_dump_json())
        except ray.exceptions.RayTaskError as error:
            raise WorkerFailed(f"A replica of '{spec.model.id}' did not start: {error.cause}") from None
        except ray.exceptions.RayError as error:
            raise Unavailable(f"Ray started no replica of '{spec.model.id}': {error}", retry_after=1) from None
        return ChannelAddress(host, port)

    async def end(self, replica: str) -> None:
        actor = self._actors.pop(replica, None)
        if actor is None:
            return
        with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
            async with asyncio.timeout(_STOP_GRACE + 2):
                await actor.stop.remote()
        await asyncio.to_thread(_kill, actor)


def _kill(actor: Any) -> None:
    with contextlib.suppress(ray.exceptions.RayError, ValueError):
        ray.kill(actor)
