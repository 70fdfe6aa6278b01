"""Settings of the worker pool."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field

from catalog.validation.section import Section

MEMORY_LEAST = 16 * 1024 * 1024
"""Bytes: less than any worker's process takes."""


class WorkerSettings(Section):
    """Settings of local workers. Times are in seconds, sizes in bytes; ``None`` means a default of the machine."""

    memory_fraction: float = Field(default=0.8, gt=0, le=1, description="of a device's memory, for all workers")
    memory: dict[str, Annotated[int, Field(ge=MEMORY_LEAST)]] = Field(
        default={}, description="budgets in bytes by device id, instead of the fraction"
    )

    keep_alive: float | None = Field(
        default=900.0, description="idle time before unloading; negative or None: never"
    )
    slots: int | None = Field(default=None, ge=1, le=512, description="requests decoded concurrently")
    extra: int = Field(default=0, ge=0, le=64, description="requests sent to a worker beyond its slots")
    context: int = Field(
        default=8192, ge=128, le=2**31 - 1, description="tokens per request, unless the row gives them"
    )
    threads: int | None = Field(
        default=None, ge=1, le=4096, description="of each worker; None: the machine's cores"
    )
    max_queue: int = Field(default=256, ge=1, description="requests that may wait for one model")

    start_timeout: float = Field(default=300.0, gt=0)
    stop_grace: float = Field(default=5.0, ge=0, description="between SIGTERM and SIGKILL")
    placement_timeout: float = Field(default=120.0, gt=0, description="longest wait for a busy worker's memory")
    drain_delay: float = Field(
        default=5.0,
        ge=0,
        validation_alias=AliasChoices("drain_delay", "patience"),
        description="wait before a busy worker is drained to make room",
    )

    backoff: float = Field(default=0.25, ge=0, description="before the second restart in a row; doubles")
    backoff_limit: float = Field(default=10.0, ge=0)
    crash_limit: int = Field(
        default=4, ge=1, description="deaths in a row, without an answer, that count as failure"
    )
    cool_down: float = Field(default=10.0, ge=0, description="after a failure, before the next attempt")

    python: dict[str, Path] = Field(
        default={},
        description="by engine, another Python interpreter, with Roundhouse and the engine's extra installed",
    )

    unresponsive: float = Field(
        default=10.0, gt=0, description="longest wait for a worker's health before its process is replaced"
    )
    sample_interval: float = Field(default=2.0, gt=0, description="between two measurements")
    runaway: float = Field(
        default=30.0, gt=0, description="processor time that an idle worker may use before it is stopped"
    )
    log_bytes: int = Field(default=1_000_000, ge=10_000, description="of a log file; two are kept per model")
    logs: Path | None = Field(default=None, description="folder of the logs; None: in the user's data folder")
