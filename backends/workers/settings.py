"""Settings of the worker pool."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field

from catalog.validation.section import Section

MEMORY_LEAST = 16 * 1024 * 1024
"""Bytes: less than any worker's process takes."""


class WorkerSettings(Section):
    """Settings of local workers. Times are in seconds, sizes in bytes."""

    memory_fraction: float = Field(
        default=0.8, gt=0, le=1, description="share of a device's memory for all workers"
    )
    memory: dict[str, Annotated[int, Field(ge=MEMORY_LEAST)]] = Field(
        default={},
        description="bytes for all workers of a device, by its id, instead of memory_fraction",
        examples=[{"cpu": 12_000_000_000}],
    )

    keep_alive: float | None = Field(
        default=900.0, description="idle seconds before a model is unloaded; negative: never"
    )
    slots: int | None = Field(
        default=None,
        ge=1,
        le=512,
        description="requests that a worker decodes at a time; by default, as the engine and the machine allow",
        examples=[4],
    )
    extra: int = Field(default=0, ge=0, le=64, description="requests sent to a worker beyond its slots")
    context: int = Field(
        default=8192,
        ge=128,
        le=2**31 - 1,
        description="context window of a request in tokens, unless limits.context_window of your [[model]] row "
        "gives it",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="threads of each worker; by default the machine's cores",
        examples=[8],
    )
    max_queue: int = Field(default=256, ge=1, description="requests that may wait for one model")

    start_timeout: float = Field(default=300.0, gt=0, description="longest start of a worker, loading included")
    stop_grace: float = Field(default=5.0, ge=0, description="seconds between SIGTERM and SIGKILL")
    placement_timeout: float = Field(
        default=120.0, gt=0, description="longest wait for the memory of a busy worker"
    )
    drain_delay: float = Field(
        default=5.0,
        ge=0,
        validation_alias=AliasChoices("drain_delay", "patience"),
        description="wait before a busy worker is drained to make room",
    )

    backoff: float = Field(
        default=0.25, ge=0, description="wait before the second restart in a row; it doubles with each"
    )
    backoff_limit: float = Field(default=10.0, ge=0, description="longest wait before a restart")
    crash_limit: int = Field(
        default=4, ge=1, description="deaths in a row, without an answer between, after which a model has failed"
    )
    cool_down: float = Field(default=10.0, ge=0, description="wait after such a failure before the next start")

    cluster: str | None = Field(
        default=None,
        pattern=r"^(auto|(ray://)?[\w.\[\]:-]+:\d+)$",
        description="Ray cluster whose nodes run the workers, in place of this machine: auto, HOST:PORT of its "
        "head, or ray://HOST:PORT",
        examples=["auto"],
    )
    cluster_namespace: str = Field(
        default="roundhouse",
        pattern=r"^[\w.-]+$",
        description="name of the pool in the cluster; gateways with the same one share its workers",
    )
    cluster_data: Path | None = Field(
        default=None,
        description="data folder of models on each node, which nodes may share; by default that of its user",
        examples=["/srv/roundhouse"],
    )
    cluster_grace: float = Field(
        default=60.0,
        gt=0,
        description="seconds without a gateway after which workers in a cluster end",
    )
    cluster_silence: float = Field(
        default=1.0,
        ge=0.6,
        description="seconds without a sign of life after which a node of a cluster counts as lost",
    )
    cluster_wait: float = Field(
        default=2.0, gt=0, description="seconds that requests wait in a cluster before a model gets another worker"
    )

    python: dict[str, Path] = Field(
        default={},
        description="another Python interpreter by engine, with Roundhouse and the engine's extra installed",
        examples=[{"vllm": "/opt/vllm/bin/python"}],
    )

    unresponsive: float = Field(
        default=10.0, gt=0, description="longest wait for a worker's health before its process is replaced"
    )
    sample_interval: float = Field(
        default=2.0, gt=0, description="seconds between two measurements of memory and load"
    )
    runaway: float = Field(
        default=30.0,
        gt=0,
        description="seconds of processor time that an idle worker may use before it is stopped",
    )
    log_bytes: int = Field(default=1_000_000, ge=10_000, description="largest log file of a model; two are kept")
    logs: Path | None = Field(
        default=None,
        description="folder of the workers' logs; by default logs in data_dir",
        examples=["/var/log/roundhouse"],
    )
