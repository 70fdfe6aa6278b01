"""A gateway's workers: of this machine, or of the cluster in the settings."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from backends.workers.engines.registry import builtin_engines
from backends.workers.pool import NodeView, WorkerState, WorkerView, of_cluster
from catalog.errors import ConfigurationError
from catalog.model import Capability, Model, PathSource
from catalog.store.store import Store
from catalog.toml_rows import builtin_rows
from server.models.workers import availability_of, own_workers
from server.observability.collectors import pool_families
from server.observability.metrics import Metrics
from server.settings import Settings

ENGINES = builtin_engines({})


def settings(folder: Path, **sections: Any) -> Settings:
    return Settings.model_validate({"data_dir": str(folder), **sections})


def make(folder: Path, **sections: Any) -> object:
    return own_workers(settings(folder, **sections), Store(folder), ENGINES, Metrics())


def test_a_cluster_without_ray_is_refused_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"needs Ray, which is not installed.*pip install .*ray"):
        make(tmp_path, workers={"cluster": "auto"})


@pytest.mark.parametrize("address", ["nowhere", "http://a:1", "ray://a", ""])
def test_an_address_that_is_none_of_a_cluster_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(ValueError, match="cluster"):
        settings(tmp_path, workers={"cluster": address})


@pytest.mark.parametrize("field", [{"replicas": {"max": 2}}, {"resources": {"gpus": 1}}])
def test_a_row_for_a_cluster_is_refused_without_one(tmp_path: Path, field: dict[str, Any]) -> None:
    row = {
        "id": "m",
        "capabilities": ["chat"],
        "engine": "llamacpp",
        "source": {"kind": "path", "path": "/m.gguf"},
    }
    with pytest.raises(ConfigurationError, match=r"'m' has '\w+', which is for workers in a cluster"):
        make(tmp_path, model=[{**row, **field}])


def test_more_replicas_at_least_than_at_most_are_refused() -> None:
    with pytest.raises(ValueError, match="min is larger than max"):
        Model.model_validate(
            {
                "id": "m",
                "capabilities": ["chat"],
                "engine": "llamacpp",
                "source": {"kind": "path", "path": "/m.gguf"},
                "replicas": {"min": 3, "max": 2},
            }
        )


def test_a_gateway_of_a_cluster_needs_neither_files_nor_engines(tmp_path: Path) -> None:
    rows = [row for row in builtin_rows()[0] if row.local]
    here = PathSource(path=str(tmp_path / "on-the-nodes.gguf"))
    own = Model(id="own", capabilities=frozenset({Capability.CHAT}), engine="llamacpp", source=here)
    unknown = own.model_copy(update={"id": "unknown", "engine": "none-of-ours"})
    availability = availability_of(settings(tmp_path, workers={"cluster": "auto"}), Store(tmp_path), ENGINES)
    blocked = availability.look((*rows, own, unknown))
    assert blocked.keys() == {"unknown", *(row.id for row in rows if row.optional)}


def view(replica: str, node: str, **given: Any) -> WorkerView:
    known = {"model": "m", "engine": "llamacpp", "state": WorkerState.READY, "slots": 4, "memory": 100}
    return WorkerView(**{**known, "device": f"{node}/cpu", "node": node, "replica": replica, **given})


def test_replicas_are_one_model_for_the_router() -> None:
    snapshot = of_cluster([view("a", "n1", busy=3), view("b", "n2", busy=1, queued=2)], (), ())
    (model,) = snapshot.models
    assert (model.slots, model.busy, model.queued, model.memory) == (8, 4, 2, 200)
    starting = of_cluster([view("a", "n1", state=WorkerState.STARTING), view("b", "n2")], (), ())
    assert starting.models[0].state is WorkerState.READY


def test_the_death_of_any_replica_changes_what_breakers_follow() -> None:
    two = of_cluster([view("a", "n1", pid=1), view("b", "n2", pid=1)], (), ())
    one = of_cluster([view("b", "n2", pid=1)], (), ())
    assert two.process("m") != one.process("m")
    assert one.process("m") == of_cluster([view("b", "n2", pid=1)], (), ()).process("m")


def test_metrics_have_one_series_for_replicas_that_share_a_device() -> None:
    nodes = (NodeView("1", "n1", "10.0.0.1", {"memory": 1000.0, "node:10.0.0.1": 1.0}, {"memory": 200.0}),)
    snapshot = of_cluster([view("a", "n1", busy=1), view("b", "n1", busy=2), view("c", "n2")], (), nodes)
    samples = {family.name: family.samples for family in pool_families(snapshot)}
    busy = {sample.labels["device"]: sample.value for sample in samples["roundhouse_worker_busy"]}
    assert busy == {"n1/cpu": 3.0, "n2/cpu": 0.0}
    assert [sample.value for sample in samples["roundhouse_replicas"]] == [3.0]
    used = samples["roundhouse_node_resource_used"]
    assert [(sample.labels["resource"], sample.value) for sample in used] == [("memory", 200.0)]
    assert [sample.value for sample in samples["roundhouse_loaded_models"]] == [1.0]
