"""The cluster of this folder's tests: three nodes, two gateways, Redis. It needs Ray and a network of its own."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from catalog.types import Json
from tests.cluster.machines import Machine, is_isolated, network
from tests.cluster.ray_nodes import RayNodes, RedisServer
from tests.faults.serving import Gateway, eventually, serving, worker_row

if not is_isolated() or importlib.util.find_spec("ray") is None or shutil.which("redis-server") is None:
    collect_ignore_glob = ["test_*.py"]

SLOTS = 30
"""Slots of a replica of the fake model."""
GRACE = 8.0


@dataclass
class Cluster:
    """The running parts; ``gateways`` are started and ended by tests, too."""

    folder: Path
    head: Machine
    nodes: tuple[Machine, ...]
    ray: RayNodes
    state: RedisServer
    stack: ExitStack
    settings: Json = field(default_factory=dict)
    gateways: list[Gateway] = field(default_factory=list)

    def open_gateway(self, name: str) -> Gateway:
        """Start a gateway of its own data folder."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        gateway = self.stack.enter_context(
            serving(folder, module="tests.cluster.gateway", within=120, **self.settings)
        )
        self.gateways.append(gateway)
        return gateway

    def replicas(self, model: str = "m", *, ready: bool = True, gateway: int = -1) -> list[Json]:
        """The replicas of a model, as a gateway sees them."""
        found = (each for each in self.gateways[gateway].workers() if each["model"] == model)
        return [each for each in found if not ready or each["state"] == "ready"]

    def machine_of(self, replica: Json) -> Machine:
        return next(each for each in (self.head, *self.nodes) if each.address in replica["node"])

    def journal(self, event: str) -> list[Json]:
        """The journal of all fake workers, which share a file."""
        return Gateway(self.gateways[0].process, self.folder, {}).journal(event)


@contextmanager
def cluster_in(folder: Path) -> Iterator[Cluster]:
    """Start it all."""
    rows = [
        worker_row("m", folder, interval=0.05) | {"replicas": {"min": 2, "max": 2}},
        *(worker_row(name, folder) for name in ("extra", "late")),
    ]
    with ExitStack() as stack:
        head, *nodes = stack.enter_context(network("head", "left", "right"))
        store, state = RedisServer(head, 6400), RedisServer(head, 6401)
        stack.callback(store.kill)
        stack.callback(state.kill)
        ray = RayNodes(folder / "ray", head, store)
        stack.callback(ray.stop)
        ray.start_head()
        for machine in nodes:
            ray.start_node(machine)
        cluster = Cluster(folder, head, tuple(nodes), ray, state, stack)
        workers: Any = {
            "cluster": ray.address,
            "slots": SLOTS,
            "cluster_grace": GRACE,
            "threads": 1,
            "context": 512,
        }
        cluster.settings = {
            "workers": workers,
            "model": rows,
            "state": {"url": state.url},
            "backends": {"first_byte_timeout": 60},
        }
        for name in ("one", "two"):
            cluster.open_gateway(name)
        eventually(lambda: len(cluster.replicas()) == 2, within=180, every=0.2)
        yield cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_in(tmp_path_factory.mktemp("cluster")) as opened:
        yield opened
