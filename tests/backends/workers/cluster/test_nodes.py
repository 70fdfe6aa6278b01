"""A node pulls what it lacks; and the resources that a replica asks of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from backends.workers.cluster.estimates import OWN, Estimates
from backends.workers.cluster.replica import NodeStore
from backends.workers.memory import visible_device
from backends.workers.settings import WorkerSettings
from catalog.clouds.cluster import Resources
from catalog.errors import PullError
from catalog.model import Capability, HubSource, Model
from tests.backends.workers.cluster.conftest import node
from tests.backends.workers.conftest import MIB, model

HUB = Model(
    id="big",
    capabilities=frozenset({Capability.CHAT}),
    engine="vllm",
    source=HubSource(repository="owner/big"),
    options={"tensor_parallel_size": 2, "pipeline_parallel_size": 2},
)


@dataclass
class StoreStub:
    """A store without a model, which a pull brings, or an error."""

    error: PullError | None = None
    pulled: list[str] = field(default_factory=list)

    def missing(self, row: Model) -> str | None:
        return None if row.id in self.pulled else "it is not on this machine"

    def path(self, row: Model) -> Path:
        return Path("/models") / row.id

    def pull(self, row: Model, **_: Any) -> Path:
        if self.error is not None:
            raise self.error
        self.pulled.append(row.id)
        return self.path(row)


def test_a_model_that_a_node_lacks_is_pulled_there_once() -> None:
    stub = StoreStub()
    store = NodeStore(stub)  # type: ignore[arg-type]
    assert store.missing(HUB) is None
    assert store.missing(HUB) is None
    assert stub.pulled == ["big"]
    assert store.path(HUB) == Path("/models/big")


def test_a_pull_that_fails_says_so_and_why() -> None:
    store = NodeStore(StoreStub(PullError("the hub says no")))  # type: ignore[arg-type]
    assert store.missing(HUB) == "The model 'big' could not be pulled on its node: the hub says no"


def test_a_file_of_a_row_must_be_on_the_node_already() -> None:
    stub = StoreStub()
    assert NodeStore(stub).missing(model()) == "it is not on this machine"  # type: ignore[arg-type]
    assert stub.pulled == []


@pytest.fixture
def estimates(tmp_path: Path) -> Estimates:
    return Estimates(WorkerSettings(cluster="auto", cluster_data=tmp_path))


def test_memory_is_that_of_the_row_until_it_was_measured(estimates: Estimates) -> None:
    row = model(engine="llamacpp", mib=300)
    assert estimates.request(row, [node("n1")]).needs == {"memory": 300 * MIB + OWN}
    estimates.note("m", 400 * MIB)
    estimates.note("m", 350 * MIB)
    assert estimates.request(row, [node("n1")]).needs == {"memory": 400 * MIB + OWN}


def test_the_resources_of_a_row_are_asked_for_as_they_are(estimates: Estimates) -> None:
    wanted = Resources(cpus=2, gpus=0.5, memory=MIB, custom={"fast": 1}, labels={"zone": "a"})
    request = estimates.request(model().model_copy(update={"resources": wanted}), [node("n1")])
    assert request.needs == {"memory": MIB + OWN, "CPU": 2, "GPU": 0.5, "fast": 1}
    assert request.labels == {"zone": "a"}


def test_a_gpu_is_asked_for_where_the_cluster_has_any_and_as_many_as_vllm_spans(estimates: Estimates) -> None:
    with_gpus, without = [node("n1", GPU=4.0)], [node("n1")]
    assert estimates.request(HUB, with_gpus).needs["GPU"] == 4.0
    assert estimates.request(model(engine="llamacpp"), with_gpus).needs["GPU"] == 1.0
    assert "GPU" not in estimates.request(model(engine="llamacpp"), without).needs
    assert "GPU" not in estimates.request(model(engine="speech"), with_gpus).needs


def test_a_device_of_a_process_is_one_of_those_that_a_scheduler_shows_it() -> None:
    assert visible_device(0, {"CUDA_VISIBLE_DEVICES": "3,5"}) == "3"
    assert visible_device(1, {"CUDA_VISIBLE_DEVICES": "3,GPU-abc"}) == "GPU-abc"
    assert visible_device(1, {}) == "1"
