"""Looks at and reads files that may be on a mount that hangs: each look has a time limit and spoils no other."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
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
        """The results by name, without those of functions that still run when none ended for ``timeout`` seconds.

        Many functions on a busy machine take longer together than one that hangs, so each end renews the wait, up
        to :data:`_MOST` times ``timeout``. A function must not raise.
        """
        results: dict[str, T] = {}
        ended = threading.Semaphore(0)

        def note(name: str, check: Callable[[], T]) -> None:
            results[name] = check()
            ended.release()

        self._running = {name: thread for name, thread in self._running.items() if thread.is_alive()}
        started = {
            name: threading.Thread(target=note, args=(name, check), name=f"look-{name}"[:60], daemon=True)
            for name, check in checks.items()
            if name not in self._running
        }
        for thread in started.values():
            thread.start()
        deadline = time.monotonic() + self._timeout * _MOST
        for _ in started:
            if not ended.acquire(timeout=max(0.0, min(self._timeout, deadline - time.monotonic()))):
                break
        known = dict(results)
        self._running |= {name: thread for name, thread in started.items() if name not in known}
        return known


_MOST = 5

SETTINGS_LIMIT = 8 * 1024 * 1024
"""Bytes of a file that a person writes: settings, certificates, a chat template."""


def read_regular(path: Path, *, limit: int = SETTINGS_LIMIT, timeout: float = 2.0) -> bytes:
    """Read a regular file of at most ``limit`` bytes.

    Raises OSError, whose ``strerror`` says what is wrong: also for a FIFO, a device, a folder, a larger file, or
    one that cannot be read within ``timeout`` seconds.
    """

    def read() -> bytes | OSError:
        try:
            return _read(path, limit)
        except OSError as error:
            return error

    found = FileChecks[bytes | OSError](timeout).run({str(path): read}).get(str(path))
    if found is None:
        raise OSError(errno.ETIMEDOUT, f"No answer from the file system within {timeout:g} seconds", str(path))
    if isinstance(found, OSError):
        raise found
    return found


def _read(path: Path, limit: int) -> bytes:
    # Opening a FIFO without a writer would wait for one.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if stat.S_ISDIR(mode := os.fstat(file.fileno()).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"Larger than {limit} bytes", str(path))
    return data
