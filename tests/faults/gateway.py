"""The real gateway over fake workers, as a process: ``python -m tests.faults.gateway SETTINGS.json``.

The settings are read again on SIGHUP. SIGUSR1 sets the wall clock of the gateway back by a day.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from functools import partial
from pathlib import Path

from backends.workers.engines.registry import EngineInfo, Engines
from server.assembly import open_runtime
from server.processes.run import run
from server.settings import Settings, load_settings

FAKE = Path(__file__).parents[1] / "fakes" / "worker.py"


class ShiftedClock:
    """The machine's clocks, with a wall clock that can be set back."""

    def __init__(self) -> None:
        self._behind = 0.0

    def set_back(self) -> None:
        self._behind += 86_400.0

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time() - self._behind


def engines() -> Engines:
    """One engine, ``fake``, whose worker is a program of the standard library alone."""
    command = (sys.executable, "-S", "-E", str(FAKE))
    return Engines(EngineInfo("fake", "none", (), command, frozenset({"cpu"}), lambda _: 4))


def main(file: Path) -> int:
    """Serve until a signal stops it; returns the exit status."""

    def read() -> Settings:
        return load_settings(None, **json.loads(file.read_text()))

    clock = ShiftedClock()
    signal.signal(signal.SIGUSR1, lambda *_: clock.set_back())
    return run(read(), reload=read, open_runtime=partial(open_runtime, engines=engines(), clock=clock))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
