"""Links to replicas: a channel to each, with its snapshot, and the choice of one for a call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from backends.base import Life
from backends.workers.control.channel import Channel
from backends.workers.control.network import beat, dial
from backends.workers.control.remote_pool import RemotePool
from backends.workers.pool import WorkerState, WorkerView


@dataclass(frozen=True, slots=True)
class ReplicaInfo:
    """The entry of a replica in the cluster's directory."""

    id: str
    model: str
    node: str
    host: str
    port: int
    key: str

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON, for :meth:`from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ReplicaInfo:
        """Restore an entry."""
        return cls(**value)


class Link:
    """A connection to one replica. Its ``life`` ends with the connection, and breaks the calls in progress."""

    def __init__(self, info: ReplicaInfo, channel: Channel, *, lost: Callable[[Link], None]) -> None:
        self.info = info
        self.life = Life()
        self.leaving = False
        self.granted = 0
        """Leases of this process that the replica's snapshot may not contain yet."""
        self.channel = channel
        self.pool = RemotePool(channel, elsewhere=True)
        self._lost = lost
        self._watch: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, info: ReplicaInfo, role: str, *, silence: float, lost: Callable[[Link], None]) -> Link:
        """Connect to a replica; ``lost`` is called once when the connection ends, or after ``silence`` seconds.

        Raises Unavailable.
        """
        made: list[Link] = []
        await dial(
            info.host,
            info.port,
            info.key,
            role=role,
            prepare=lambda channel: made.append(cls(info, channel, lost=lost)),
            seconds=3.0,
        )
        link = made[0]
        link._watch = asyncio.create_task(link._attend(silence), name=f"link to {info.id}")
        await link.pool.start()
        return link

    async def _attend(self, silence: float) -> None:
        try:
            await beat(self.channel, silence)
        finally:
            self.channel.abort()
            self.life.end()
            self._lost(self)

    def close(self) -> None:
        """Close the connection in good order; calls in progress on it go on."""
        self.life = Life()
        self.channel.close()

    @property
    def usable(self) -> bool:
        """Whether a lease may be asked for."""
        return not self.leaving and not self.channel.closed.is_set()

    def view(self) -> WorkerView | None:
        """Return the replica's worker, once there was one."""
        return next(iter(self.pool.snapshot().workers), None)


def placed(view: WorkerView, node: str, replica: str, state: WorkerState) -> WorkerView:
    """Return a replica's view with its place in the cluster; devices of different nodes are different ones."""
    device = f"{node}/{view.device}" if view.device else ""
    return replace(view, node=node, replica=replica, device=device, state=state)


def choose(links: Iterable[Link]) -> Link | None:
    """Choose the replica for a call: one that serves before one that loads, then the shortest queue per slot.

    A replica that has just started has no slot in use, so all calls would go to it at once; the leases of this
    process that its snapshot does not know yet count as well.
    """
    usable = [link for link in links if link.usable]
    return min(usable, key=_burden, default=None)


def _burden(link: Link) -> tuple[bool, float, str]:
    view = link.view()
    if view is None:
        return True, float(link.granted), link.info.id
    load = max(link.granted, view.busy + view.queued) / max(1, view.slots)
    return view.state is not WorkerState.READY, load, link.info.id
