"""The part of a catalogue row that is for a cluster: the number of workers, and the resources of each."""

from __future__ import annotations

from typing import Self

from pydantic import ConfigDict, Field, model_validator

from catalog.validation.section import Section

_FROZEN = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Replicas(Section):
    """The workers of one model in a cluster, at least and at most."""

    model_config = _FROZEN
    min: int = Field(default=0, ge=0, le=1024, description="workers that are always kept, even without requests")
    max: int = Field(default=1, ge=1, le=1024, description="workers to start while requests wait")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError("min is larger than max")
        return self


class Resources(Section):
    """Resources that each worker of a model takes of a cluster's node. ``custom`` are those that nodes declare."""

    model_config = _FROZEN
    cpus: float = Field(default=0, ge=0, description="cores to reserve")
    gpus: float | None = Field(
        default=None,
        ge=0,
        description="GPUs; a part of one below 1. By default one where the engine can use it, or as many as vLLM "
        "is to span",
    )
    memory: int | None = Field(default=None, gt=0, description="bytes; by default as estimated or measured")
    custom: dict[str, float] = Field(default={}, description="amounts of resources that nodes declare")
    labels: dict[str, str] = Field(default={}, description="labels that a node must have")
