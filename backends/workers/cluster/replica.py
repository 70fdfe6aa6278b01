"""The program of a replica: ``python -m backends.workers.cluster.replica``, with its spec on standard input.

It runs the worker pool of one machine (:class:`backends.workers.supervisor.Supervisor`) for one model, on the
node's private address, and offers it on a channel (:mod:`backends.workers.control.service`) to gateways and the
manager. So slots are counted in one place, and there is one queue for them, however many gateways there are.

It ends with its standard input, when it is told to, and by itself once no gateway has been connected for a while:
it does not outlive the gateways that could use it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import orjson

from backends.workers.cluster.specs import ReplicaSpec, models_folder
from backends.workers.control.network import ChannelServer
from backends.workers.control.service import PoolService
from backends.workers.engines.registry import Engines, builtin_engines
from backends.workers.memory import visible_device
from backends.workers.placement import HostDevice
from backends.workers.supervisor import ModelFiles, Supervisor
from catalog.errors import RoundhouseError
from catalog.hardware import Device, detect
from catalog.model import HubSource, Model, PackageSource
from catalog.store.store import Store

GATEWAY = "gateway"
MANAGER = "manager"
"""The roles of clients."""
_LOOKS = 1.0


class NodeStore:
    """The models of a node. One that is missing is pulled, by one replica at a time, and verified once."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def path(self, model: Model) -> Path:
        """Return the file or folder that the engine opens."""
        return self._store.path(model)

    def missing(self, model: Model) -> str | None:
        """Return the reason why the model cannot be opened here, after an attempt to pull it; None if it can."""
        reason = self._store.missing(model)
        if reason is None or not isinstance(model.source, PackageSource | HubSource):
            return reason
        try:
            self._store.pull(model, token=os.environ.get("HF_TOKEN"))
        except RoundhouseError as error:
            return f"The model '{model.id}' could not be pulled on its node: {error.message}"
        return self._store.missing(model)


class Replica:
    """The pool and its server. :meth:`run` returns when it is to end."""

    def __init__(self, spec: ReplicaSpec, *, engines: Engines, store: ModelFiles, device: HostDevice) -> None:
        self._spec = spec
        settings = spec.settings.model_copy(update={"memory": {}, "memory_fraction": 1.0})
        self._pool = Supervisor(store=store, settings=settings, devices=[device], engines=engines, host=spec.host)
        self._service = PoolService(self._pool)
        self._server = ChannelServer(
            spec.key, lambda channel, _: self._service.offer(channel), silence=settings.cluster_silence
        )
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """End it."""
        self._stop.set()

    async def run(self, ready: Callable[[int], None]) -> None:
        """Serve; ``ready`` is called with the port of the channel."""
        async with self._pool:
            serving = asyncio.create_task(self._service.run())
            try:
                ready(await self._server.start(self._spec.host))
                await self._until_deserted()
            finally:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)
                await self._server.close()

    async def _until_deserted(self) -> None:
        """Return when it is stopped, or when no gateway has been connected for the grace."""
        alone = 0.0
        while alone < self._spec.settings.cluster_grace:
            try:
                async with asyncio.timeout(_LOOKS):
                    await self._stop.wait()
                    return
            except TimeoutError:
                alone = 0.0 if self._server.connected(GATEWAY) else alone + _LOOKS


def main(engines: Engines | None = None, store: ModelFiles | None = None) -> None:
    """Run a replica until its end. Tests pass engines and a store of their own."""
    report = os.dup(1)
    os.dup2(2, 1)  # what libraries print goes to the log, and not into the report
    spec = ReplicaSpec.model_validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    replica_engines = engines or builtin_engines(spec.settings.python)
    replica_store = store or NodeStore(Store(models_folder(spec.settings.cluster_data)))

    async def serve() -> None:
        device = _device(spec)
        replica = Replica(spec, engines=replica_engines, store=replica_store, device=device)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, replica.stop)
        await replica.run(lambda port: _say(report, {"port": port}))

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve())


def _device(spec: ReplicaSpec) -> Device:
    """The device of the replica: the GPU that it was given, or its share of the node's memory."""
    if spec.gpus:
        shown = visible_device(0, os.environ)
        found = next((each for each in detect().devices if each.id == f"cuda:{shown}"), None)
        if found is not None:
            memory = int(found.memory * spec.gpus)
            return Device("cuda:0", found.kind, found.name, memory)
    return Device("cpu", "cpu", "memory of the node", spec.memory)


def _say(descriptor: int, message: dict[str, int]) -> None:
    os.write(descriptor, orjson.dumps(message) + b"\n")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    if sys.platform == "win32":
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop


def _end_with_parent() -> None:
    """End this process at the end of standard input: its holder is gone. The workers end with their parent."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
