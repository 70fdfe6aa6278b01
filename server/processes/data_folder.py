"""The data folder of a server: writable, marked as in use, with the server's address for commands to find."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import structlog

from catalog.errors import ConfigurationError

LOCK_FILE = "server.lock"
"""In the data folder: locked while a server uses it, with its process id."""
ADDRESS_FILE = "server.json"
"""In the data folder while a server listens: its :class:`ServerAddress`."""
_SAME_START = 5.0
"""Seconds by which the start time of one process may differ between two looks, as the clock is corrected."""


def check_data_dir(folder: Path) -> None:
    """Create the data folder if it is missing. Raises ConfigurationError when it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"The data folder {folder} cannot be written: {error.strerror}. Set data_dir to a writable folder, as "
            "ROUNDHOUSE_DATA_DIR=FOLDER."
        ) from None


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Mark the data folder as in use by this server, and warn if another server uses it too.

    Two servers on one folder keep limits, caps and breakers together, as the state is made for several
    processes, but each has its own workers and memory budget, and both write the log of a model that both run.
    """
    with (folder / LOCK_FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            structlog.get_logger("server.processes.data_folder").warning(
                "another server uses this data folder",
                folder=str(folder),
                pid=file.read(20).strip(),
                advice="give each its own data_dir, or run one server with --workers",
            )
        except OSError:
            pass  # a file system without locks
        else:
            try:
                file.truncate(0)
                os.write(file.fileno(), f"{os.getpid()}\n".encode())
            except OSError as error:  # a full disk: the lock holds all the same
                structlog.get_logger("server.processes.data_folder").warning(
                    "the data folder cannot be written",
                    folder=str(folder),
                    reason=error.strerror,
                    advice="free space there; until then, what is learned and spent is kept in memory alone",
                )
        yield


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """The URLs at which a server listens, and its process: ``started`` in seconds since 1970, against reused ids.

    ``admin_url`` is that of the admin routes, if they have an address of their own.
    """

    url: str
    admin_url: str | None
    pid: int
    started: float

    @property
    def alive(self) -> bool:
        """Whether the process that wrote the address runs."""
        started = _started(self.pid)
        return started is not None and abs(started - self.started) < _SAME_START


@contextlib.contextmanager
def published(folder: Path, url: str, admin_url: str | None) -> Iterator[None]:
    """Leave this server's address in the data folder while the block runs.

    The address of another server that runs stays: commands find the one that was first, and others by ``--url``.
    """
    pid = os.getpid()
    if read_address(folder) is None:
        address = ServerAddress(url, admin_url, pid, _started(pid) or 0.0)
        with contextlib.suppress(OSError):  # a full disk: commands take the address of the settings
            part = folder / f".{ADDRESS_FILE}.{pid}"
            part.write_text(json.dumps(asdict(address)), "utf-8")
            part.replace(folder / ADDRESS_FILE)
    try:
        yield
    finally:
        left = read_address(folder)
        if left is not None and left.pid == pid:
            with contextlib.suppress(OSError):
                (folder / ADDRESS_FILE).unlink()


def read_address(folder: Path) -> ServerAddress | None:
    """The address of the server that runs on this data folder; ``None`` if there is none, or its process ended."""
    try:
        address = ServerAddress(**json.loads((folder / ADDRESS_FILE).read_text("utf-8")))
        return address if address.alive else None
    except (OSError, ValueError, TypeError):
        return None


def _started(pid: int) -> float | None:
    try:
        return float(psutil.Process(pid).create_time())
    except (psutil.Error, OSError):
        return None
