"""A gateway whose replicas also know the engine of tests: ``python -m tests.cluster.gateway SETTINGS.json``."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from backends.workers.cluster.find import finder
from backends.workers.cluster.pool import ClusterPool
from server.assembly import open_runtime
from server.observability.metrics import Metrics
from server.processes.run import run
from server.runtime import Runtime
from server.settings import Settings, load_settings
from tests.cluster.replica_program import engines

PROGRAM = "tests.cluster.replica_program"


def main(file: Path) -> int:
    """Serve until a signal stops it; returns the exit status."""

    def read() -> Settings:
        return load_settings(None, **json.loads(file.read_text()))

    @asynccontextmanager
    async def opened(settings: Settings, metrics: Metrics, **given: Any) -> AsyncIterator[Runtime]:
        workers = settings.workers
        async with (
            ClusterPool(finder(workers, PROGRAM), silence=workers.cluster_silence) as pool,
            open_runtime(settings, metrics, engines=engines(), pool=pool, **given) as runtime,
        ):
            yield runtime

    return run(read(), reload=read, open_runtime=opened)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
