"""The specs that a replica's program and the manager start with, and the address that each answers with."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from backends.workers.settings import WorkerSettings
from catalog.model import Model

REPLICA = "backends.workers.cluster.replica"
"""The program of a replica."""
_SPEC = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ReplicaSpec(BaseModel):
    """One model on one node. ``memory`` are the bytes that it may use of the node, ``gpus`` the GPUs it was given.

    ``host`` is the node's private address. ``key`` opens the channel; workers have keys of their own.
    """

    model_config = _SPEC

    id: str
    node: str
    model: Model
    host: str
    key: str = Field(min_length=1, repr=False)
    memory: int = Field(gt=0)
    gpus: float = Field(default=0.0, ge=0)
    amounts: dict[str, float] = {}
    settings: WorkerSettings


class ManagerSpec(BaseModel):
    """The cluster to use, the settings of its workers, and the program of a replica."""

    model_config = _SPEC

    address: str
    settings: WorkerSettings
    program: str


class ChannelAddress(NamedTuple):
    """The TCP address of a channel's server."""

    host: str
    port: int


def models_folder(data: Path | None) -> Path:
    """Return the folder of a node's models, as a server there would use it."""
    from platformdirs import user_data_path

    return (data or user_data_path("roundhouse", appauthor=False)) / "models"
