"""The actors of a cluster's pool: the manager, and one for each replica.

Both are detached: they belong to no gateway. Ray restarts the manager, on another node if need be. A replica is
not restarted: the manager starts another one once it is needed. Slow imports are made in the manager's
process only, so that a replica starts faster.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from typing import TYPE_CHECKING

import ray

from backends.workers.cluster.holder import ReplicaProcess

if TYPE_CHECKING:
    from backends.workers.cluster.manager import ClusterManager
    from backends.workers.control.network import ChannelServer

_STOP_GRACE = 5.0


class ReplicaActor:
    """Owns the process of one replica. Its methods run in threads, as each blocks."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._held: ReplicaProcess | None = None

    def start(self, spec: str) -> tuple[str, int]:
        """Start the program, and return the address of its channel."""
        held = self._held = ReplicaProcess(self._program, spec, os.environ)
        threading.Thread(target=_end_with, args=(held,), name="end of the program", daemon=True).start()
        return held.wait_ready()

    def told(self) -> tuple[str, str, int] | None:
        """Return the spec and the address of the channel; None before the start."""
        if self._held is None or self._held.address is None:
            return None
        return self._held.spec, *self._held.address

    def stop(self) -> None:
        """End the program, and the actor with it."""
        if self._held is not None:
            self._held.stop(_STOP_GRACE)
        ray.actor.exit_actor()


def _end_with(held: ReplicaProcess) -> None:
    """End this process with the program. A call that waited for that would keep Ray from ending the actor."""
    held.wait()
    os._exit(1)


class ManagerActor:
    """Runs the manager in a Ray process. :meth:`where` starts it, as a restart by Ray calls no method."""

    def __init__(self, spec: str) -> None:
        from backends.workers.cluster.specs import ManagerSpec

        self._spec = ManagerSpec.model_validate_json(spec)
        self._key = secrets.token_urlsafe(32)
        self._begun: asyncio.Task[tuple[str, int, str]] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def where(self) -> tuple[str, int, str]:
        """Return the address of the manager's channel, and its key."""
        if self._begun is None:
            self._begun = asyncio.create_task(self._begin())
        try:
            return await asyncio.shield(self._begun)
        except Exception:
            self._begun = None
            raise

    async def _begin(self) -> tuple[str, int, str]:
        from backends.workers.cluster.manager import ClusterManager
        from backends.workers.cluster.ray_placer import RayPlacer
        from backends.workers.control.network import ChannelServer

        settings = self._spec.settings
        placer = RayPlacer(settings.cluster_namespace, self._spec.program, ReplicaActor)
        manager = ClusterManager(placer, settings)
        await manager.start()
        server = ChannelServer(
            self._key, lambda channel, _: manager.offer(channel), silence=settings.cluster_silence
        )
        own = ray.get_runtime_context().get_node_id()
        host = next(node.address for node in await placer.nodes() if node.id == own)
        port = await server.start(host)
        for work in (manager.run(), self._end_when_deserted(server, manager)):
            task = asyncio.create_task(work)
            self._tasks.add(task)
        return host, port, self._key

    async def _end_when_deserted(self, server: ChannelServer, manager: ClusterManager) -> None:
        """End the actor when no gateway has been connected for the grace, and its replicas have ended, too."""
        alone = 0.0
        while alone < self._spec.settings.cluster_grace:
            await asyncio.sleep(1)
            used = server.connected("gateway") or manager.has_replicas
            alone = 0.0 if used else alone + 1
        # Not an exit of the process, which Ray would take for a crash and restart it.
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)
