"""Looks at files that may be on a mount that hangs: each look has a time limit and spoils no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class FileChecks(Generic[T]):
    """Runs functions that wait for the file system, each in a thread of its own: a dead mount holds it for good.

    A function whose earlier run still hangs is not started again, so that there is one such thread per name.
    """

    def __init__(self, timeout: float = 2.0) -> None:
        self._timeout = timeout
        self._running: dict[str, threading.Thread] = {}

    def run(self, checks: Mapping[str, Callable[[], T]]) -> dict[str, T]:
        """The results by name, ``timeout`` seconds later at the latest; without those of functions that still run.

        A function must not raise.
        """
        results: dict[str, T] = {}

        def note(name: str, check: Callable[[], T]) -> None:
            results[name] = check()

        self._running = {name: thread for name, thread in self._running.items() if thread.is_alive()}
        started = {
            name: threading.Thread(target=note, args=(name, check), name=f"look-{name}"[:60], daemon=True)
            for name, check in checks.items()
            if name not in self._running
        }
        for thread in started.values():
            thread.start()
        deadline = time.monotonic() + self._timeout
        for name, thread in started.items():
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._running[name] = thread
        return {name: results[name] for name in started if name in results and name not in self._running}
