"""The program of a replica that knows one more engine: that of the fake worker."""

from __future__ import annotations

import sys

from backends.workers.cluster.replica import main
from backends.workers.engines.registry import EngineInfo, Engines, builtin_engines
from tests.faults.gateway import FAKE


def engines() -> Engines:
    """The engines of Roundhouse, and ``fake``."""
    command = (sys.executable, "-S", "-E", str(FAKE))
    fake = EngineInfo("fake", "none", (), command, frozenset({"cpu"}), lambda _: 50)
    return Engines(*builtin_engines({}).values(), fake)


if __name__ == "__main__":
    main(engines())
